package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/controlplane/client/release/releasetest"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts")

// TestMain makes the command a process of its own, for scripts that have it in
// the background.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"tender-process": func() {
			signals := make(chan os.Signal, 2)
			signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
			os.Exit(Run(context.Background(), os.Args[1:], os.Environ(), Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Signals: signals}))
		},
	})
}

// TestScripts runs testdata/*.txtar against a fleet in memory, one for each
// script. Beside testscript's own there are the commands
//
//	tender ARG...      the command, in this process, at the fleet's time
//	code N             the exit code of the last tender was N
//	input TEXT         is what the next tender reads
//	fleet WORD ARG...  what happens in the fleet, see below
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(2 * time.Minute), // ends what a failed script left running
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"tender": tender,
			"code": func(ts *testscript.TestScript, _ bool, args []string) {
				if got := ts.Value(worldKey{}).(*world).code; strconv.Itoa(got) != args[0] {
					ts.Fatalf("the exit code was %d, not %s", got, args[0])
				}
			},
			"input": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Value(worldKey{}).(*world).input = strings.Join(args, " ") + "\n"
			},
			"fleet": happen,
		},
	})
}

type worldKey struct{}

// world is what one script runs against.
type world struct {
	fleet *apitest.Fleet
	close func()
	code  int
	input string // what the next tender reads
	tb    testing.TB
	// signer is the release key.
	signer *releasetest.Signer
}

func setup(env *testscript.Env) error {
	f := apitest.New()
	// A path of a socket must be short, and that of a script is not.
	dir, err := os.MkdirTemp("", "tender")
	if err != nil {
		return err
	}
	env.Defer(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	srv := api.NewServer(api.Handler(f, f.Options()), nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	w := &world{fleet: f, tb: env.T().(testing.TB), close: func() {
		_ = srv.Close()
		<-done
	}}
	env.Defer(w.close)
	env.Values[worldKey{}] = w
	env.Setenv("TENDER_SOCKET", socket)
	env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
	return nil
}

// environ are the variables that the command may look at.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, k := range []string{"HOME", "USER", "TENDER_SOCKET", "TENDER_SERVER", "TENDER_CREDENTIALS", "TENDER_CONFIG", "TENDER_OUTPUT", "SECRET"} {
		if v := ts.Getenv(k); v != "" {
			env = append(env, k+"="+v)
		}
	}
	return env
}

func tender(ts *testscript.TestScript, neg bool, args []string) {
	w := ts.Value(worldKey{}).(*world)
	a := &app{
		Streams: Streams{In: strings.NewReader(w.input), Out: ts.Stdout(), Err: ts.Stderr()},
		env:     map[string]string{}, now: w.fleet.Now,
	}
	for _, kv := range environ(ts) {
		k, v, _ := strings.Cut(kv, "=")
		a.env[k] = v
	}
	for i, arg := range args {
		if path, ok := strings.CutPrefix(arg, "@"); ok {
			args[i] = ts.MkAbs(path)
		}
	}
	w.code = a.run(context.Background(), args)
	w.input = ""
	switch {
	case neg && w.code == 0:
		ts.Fatalf("unexpected success")
	case !neg && w.code != 0:
		ts.Fatalf("exit code %d", w.code)
	}
}

// happen makes something happen in the fleet.
func happen(ts *testscript.TestScript, _ bool, args []string) {
	w := ts.Value(worldKey{}).(*world)
	if args[0] == "package" && len(args) > 1 {
		args[1] = ts.MkAbs(args[1])
	}
	if err := w.happen(args[0], args[1:]); err != nil {
		ts.Fatalf("fleet %s: %v", args[0], err)
	}
}

func (w *world) happen(word string, args []string) error {
	f := w.fleet
	if !slices.Contains([]string{"down", "tasks", "trust"}, word) && len(args) == 0 {
		return errors.New("an argument is missing")
	}
	switch word {
	case "agent": // ID key=value...: joins and connects
		return w.addAgent(args[0], args[1:])
	case "connect":
		f.Connect(fleet.AgentID(args[0]))
	case "disconnect":
		f.Disconnect(fleet.AgentID(args[0]))
	case "print", "warn": // TASK TEXT: a line of output
		f.Print(fleet.TaskID(args[0]), word == "warn", strings.Join(args[1:], " ")+"\n")
	case "finish": // TASK CODE
		code, err := strconv.Atoi(args[1])
		f.Finish(fleet.TaskID(args[0]), code)
		return err
	case "await": // TASK STATE
		s, err := fleet.ParseTaskState(args[1])
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		return f.Await(ctx, fleet.TaskID(args[0]), s)
	case "advance":
		d, err := time.ParseDuration(args[0])
		f.Advance(d)
		return err
	case "subscribe":
		f.Subscribe(fleet.FrameworkID(args[0]))
	case "draining": // AGENT: once it is
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		return f.AwaitAgent(ctx, fleet.AgentID(args[0]), func(a *fleet.Agent) bool { return a.Drain != nil })
	case "framework", "leave", "decline", "launch", "acknowledge":
		return w.framework(word, fleet.FrameworkID(args[0]), args[1:])
	case "tasks": // N: so many are known
		if got := strconv.Itoa(f.Tasks()); got != args[0] {
			return fmt.Errorf("there are %s tasks", got)
		}
	case "fill": // r2 TEXT: its disk is full
		f.Fill(strings.Join(args[1:], " "))
	case "follow": // ID ADDR: this replica follows that one
		f.SetStatus(api.Status{ID: "r1", Leader: fleet.ReplicaID(args[0]), LeaderAddr: args[1]})
	case "trust": // it has a root, which agents get that connect from then on
		return f.Trust()
	case "turn": // PHASE of the rotation
		f.Turn(args[0])
	case "package": // FILE VERSION ARCH of tender-agent, and its signature
		return w.pack(args)
	case "upgraded": // AGENT VERSION|- STATE TEXT: what it tells of the rollout
		f.Upgraded(fleet.AgentID(args[0]), strings.TrimPrefix(args[1], "-"), args[2], strings.Join(args[3:], " "))
	case "roll": // DURATION: the rollout goes on for so long
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return err
		}
		return f.Roll(d)
	case "down": // the replica is gone
		w.close()
	default:
		return errors.New("no such word")
	}
	return nil
}

// pack writes a package, its signature and, beside them, the public key.
func (w *world) pack(args []string) error {
	if w.signer == nil {
		w.signer = releasetest.NewSigner(w.tb)
	}
	file := releasetest.Package(w.tb, args[1], args[2])
	return errors.Join(
		os.WriteFile(args[0], file, 0o600), os.WriteFile(args[0]+".minisig", []byte(w.signer.Sign(file)), 0o600),
		os.WriteFile(filepath.Join(filepath.Dir(args[0]), "minisign.pub"), []byte(w.signer.Public), 0o600))
}

// framework makes an outside framework do something.
func (w *world) framework(word string, id fleet.FrameworkID, args []string) error {
	f := w.fleet
	switch word {
	case "framework": // ID key=value...: it connects
		info := apitest.Info(id)
		var suppressed []fleet.Role
		for _, kv := range args {
			k, v, _ := strings.Cut(kv, "=")
			switch k {
			case "roles":
				info.Roles = nil
				for r := range strings.SplitSeq(v, ",") {
					info.Roles = append(info.Roles, fleet.Role(r))
				}
			case "suppressed":
				suppressed = append(suppressed, fleet.Role(v))
			case "plain": // without GPUs
				info.Capabilities = []fleet.Capability{fleet.CapPartitionAware}
			case "disk": // only on agents with that label
				info.Constraints = map[fleet.Role]fleet.OfferConstraints{
					info.Roles[0]: {{{Attribute: "disk", Predicate: fleet.TextEquals, Value: v}}},
				}
			default:
				return fmt.Errorf("no key %q", k)
			}
		}
		f.Register(info, suppressed...)
	case "leave":
		f.Leave(id)
	case "decline": // ID DURATION: all that is on offer to it
		d, err := time.ParseDuration(args[0])
		f.Decline(id, d)
		return err
	case "launch": // ID TASK COMMAND...: on its first offer
		return f.Launch(id, fleet.TaskID(args[0]), args[1:]...)
	case "acknowledge": // ID: all updates
		f.Acknowledge(id)
	}
	return nil
}

func (w *world) addAgent(id string, args []string) error {
	var rec fleet.Agent
	var devices []gpu.Device
	cpus, mem := int64(8), int64(16384)
	for _, kv := range args {
		k, v, _ := strings.Cut(kv, "=")
		n, _ := strconv.Atoi(v)
		switch k {
		case "cpus":
			cpus = int64(n)
		case "mem":
			mem = int64(n)
		case "site":
			rec.Site = fleet.Site(v)
		case "label":
			lk, lv, _ := strings.Cut(v, ":")
			rec.Labels = map[string]string{lk: lv}
		case "cert":
			d, err := time.ParseDuration(v)
			if err != nil {
				return err
			}
			rec.CertNotAfter = w.fleet.Now().Add(d)
		case "healed": // so long ago
			d, err := time.ParseDuration(v)
			if err != nil {
				return err
			}
			rec.Healed = w.fleet.Now().Add(-d)
		case "copied": // from there
			rec.Cloned = &fleet.Cloned{At: w.fleet.Now(), Addr: v, Text: "its certificate is for a key that the agent has left behind"}
		case "clock": // it is behind by so much
			d, err := time.ParseDuration(v)
			if err != nil {
				return err
			}
			defer w.fleet.Clock(fleet.AgentID(id), d)
		case "link": // why little travels, of a month in which 67.7 MB did
			defer w.fleet.LinkUse(fleet.AgentID(id), fleet.LinkUse{
				Month: "2026-01", Keepalive: 4_200_000, Readings: 1_300_000, Updates: 800_000, Images: 61_400_000, Logs: 20_000,
				Budget: 50_000_000, State: strings.ReplaceAll(v, "_", " "),
			})
		case "gpus", "badgpus":
			for i := range n {
				d := gpu.Device{
					UUID: gpu.UUID(fmt.Sprintf("GPU-%s-%s-%d", id, k, i+1)), Model: "NVIDIA RTX A6000", MemoryMB: 49140,
					ComputeMajor: 8, ComputeMinor: 6, Health: gpu.Healthy,
				}
				if k == "badgpus" {
					d.Health, d.Reason = gpu.Unhealthy, "XID 79"
				}
				devices = append(devices, d)
			}
		default:
			return fmt.Errorf("no key %q", k)
		}
	}
	w.fleet.AddAgent(fleet.AgentID(id), apitest.Capacity(cpus, mem, devices...), rec)
	return nil
}
