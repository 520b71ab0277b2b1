package e2e

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/transport"
)

// edit returns a join line with something else in it.
func edit(t *testing.T, line string, change func(*pki.JoinLine)) string {
	t.Helper()
	l, err := pki.ParseJoinLine(line)
	if err != nil {
		t.Fatal(err)
	}
	change(&l)
	return l.String()
}

func TestAJoinThatMustNotBeAdmittedIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	f, stranger := harness.NewFleet(t, 1), harness.NewFleet(t, 1)
	member := f.Join(t, harness.AgentOptions{})
	used := f.Token(t, client.CreateToken{Uses: 1})
	if _, stderr, code := harness.Run(t, used, harness.Program("tender-agent"), "join", "--state", t.TempDir(), "-"); code != 0 {
		t.Fatal(stderr)
	}
	expired := f.Token(t, client.CreateToken{TTL: client.Duration(time.Second)})
	good := f.Token(t, client.CreateToken{})
	foreign := stranger.Token(t, client.CreateToken{})
	replica := f.Token(t, client.CreateToken{Kind: "replica"})
	parsed, err := pki.ParseJoinLine(expired)
	if err != nil {
		t.Fatal(err)
	}
	// A line's expiry is told in whole seconds.
	harness.Eventually(t, "the token expires", func() bool { return time.Since(parsed.Expires) > time.Second })

	for _, c := range []struct {
		name, line string
		args       []string // without them: tender-agent join
		want       []string
	}{
		{"garbage", "hello", nil, []string{"not a valid join line", "paste the whole line"}},
		{"a damaged line", good[:len(good)-9] + "A" + good[len(good)-8:], nil, []string{"not a valid join line", "damaged", "paste the whole line"}},
		{"a line cut short", good[:len(good)/2], nil, []string{"not a valid join line", "cut short"}},
		{"a used token", used, nil, []string{"used already", "ask an operator for a new"}},
		{"an expired token", expired, nil, []string{"expired", "ask an operator for a new"}},
		{"an expired token in a line that says otherwise", edit(t, expired, func(l *pki.JoinLine) { l.Expires = time.Now().Add(time.Hour) }), nil, []string{"expired", "ask an operator for a new"}},
		{"a token of another fleet", edit(t, good, func(l *pki.JoinLine) {
			l.Secret = pki.NewSecret()
		}), nil, []string{"does not know the join line", "another fleet", "ask an operator for a new"}},
		{"another fleet at the address", edit(t, foreign, func(l *pki.JoinLine) { l.Addrs = []string{f.Replicas[0].Addr} }), nil, []string{"not the one of the join line", "check the address"}},
		{"a replica's token", replica, nil, []string{"of kind replica", "tender token create"}},
		{"a replica's token in a line that says otherwise", edit(t, replica, func(l *pki.JoinLine) { l.Kind = pki.KindAgent }), nil, []string{"for another kind", "ask an operator for a new"}},
		{"a machine that has joined", good, []string{"tender-agent", "join", "--state", member.State, "-"}, []string{"has joined already", member.ID, "remove"}},
		{"a state directory that cannot be written", good, []string{"tender-agent", "join", "--state", "/proc/tender", "-"}, []string{"state directory", "writable", "--state"}},
		{"an agent's token for a replica", good, []string{"tenderd", "join", "--data", filepath.Join(t.TempDir(), "d"), "--addr", "127.0.0.1:1", "-"}, []string{"of kind agent", "tender token create --kind replica"}},
		{"a replica that is there", replica, []string{"tenderd", "join", "--data", f.Replicas[0].Data, "--addr", "127.0.0.1:1", "-"}, []string{"already holds replica r1", "--data"}},
		{"a data directory that cannot be written", replica, []string{"tenderd", "join", "--data", "/proc/tender", "--addr", "127.0.0.1:1", "-"}, []string{"data directory", "writable", "--data"}},
		{"an address that nobody can dial", replica, []string{"tenderd", "join", "--data", filepath.Join(t.TempDir(), "d"), "--addr", "0.0.0.0:7443", "-"}, []string{"0.0.0.0:7443", "others can dial"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state")
			if c.args == nil {
				c.args = []string{"tender-agent", "join", "--state", state, "--timeout", "5s", "-"}
			}
			unchanged(t, f, func() {
				_, stderr, code := harness.Run(t, c.line, harness.Program(c.args[0]), c.args[1:]...)
				if code == 0 {
					t.Error("it was admitted")
				}
				wantText(t, stderr, c.want...)
			})
			if _, err := os.Stat(filepath.Join(state, "pki")); err == nil {
				t.Error("a refused machine has a certificate")
			}
		})
	}

	// A process's clock cannot be set apart from the machine's (a time
	// namespace does not shift it), so the programs' own code is given one. The
	// lives of certificates against a wrong clock are tested in package pki.
	for _, off := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		t.Run("a clock that is off by "+off.String(), func(t *testing.T) {
			unchanged(t, f, func() {
				err := joinAt(t, good, func() time.Time { return time.Now().Add(off) })
				var refused *enroll.Refusal
				if !errors.As(err, &refused) && !errors.As(err, new(*pki.ClockError)) {
					t.Errorf("got %v", err)
				}
				wantText(t, err.Error(), "clock")
			})
		})
	}
	t.Run("nothing was wrong with the token", func(t *testing.T) {
		if _, stderr, code := harness.Run(t, good, harness.Program("tender-agent"), "join", "--state", t.TempDir(), "-"); code != 0 {
			t.Error(stderr)
		}
	})
}

// joinAt joins by a clock of its own.
func joinAt(t *testing.T, text string, now func() time.Time) error {
	t.Helper()
	line, err := pki.ParseJoinLine(text)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	req, err := enroll.NewRequest(line, key, "clock")
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := transport.NewDialer(transport.DialerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer dialer.Close() //nolint:errcheck // of a test
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	j := enroll.Joiner{Now: now, Dial: func(ctx context.Context, addr string) (io.ReadWriteCloser, error) {
		s, err := dialer.DialEnrol(ctx, addr, line.Pin)
		if err != nil {
			return nil, err
		}
		return s.Open(ctx, transport.StreamEnrol)
	}}
	_, err = j.Run(ctx, line, req)
	return err
}

func TestSettingsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 1)
	a := f.Join(t, harness.AgentOptions{})
	a.Start(t)
	a.Connected(t)
	file := func(text string) string {
		p := filepath.Join(t.TempDir(), "settings.yaml")
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	unchanged(t, f, func() {
		for _, c := range []struct {
			name, args string
			want       []string
		}{
			{"an unknown key of an agent", "tender-agent config check --config " + file("offer-cpu: 2\n"), []string{"unknown key", "offer-cpu", `did you mean "offer-cpus"`}},
			{"an unknown key of a replica", "tenderd config check --config " + file("lissten: ':1'\n"), []string{"unknown key", "lissten", `did you mean "listen"`}},
			{"a file that is no YAML", "tender-agent config check --config " + file("{"), []string{"settings.yaml", "yaml: line 1"}},
			{"a file that is not there", "tender-agent run --config /nowhere.yaml", []string{"read settings", "/nowhere.yaml", "no such file"}},
			{"a level of logs", "tender-agent run --state " + a.State + " --log-level loud", []string{"loud", "debug, info, warn or error"}},
			{"a number that is none", "tender-agent run --state " + a.State + " --offer-cpus many", []string{"--offer-cpus", "many"}},
			{"a second agent in the state directory", "tender-agent run --state " + a.State, []string{"another tender-agent uses this state directory", "stop it first"}},
			{"an agent that has not joined", "tender-agent run --state " + t.TempDir(), []string{"join"}},
			{"a replica that was not made", "tenderd run --data " + t.TempDir(), []string{"no replica here", "tenderd init"}},
			{"a second replica in the data directory", "tenderd run --socket= --listen 127.0.0.1:0 --data " + f.Replicas[0].Data, []string{"another tenderd", "data directory"}},
			{"init where a replica is", "tenderd init --addr 127.0.0.1:1 --data " + f.Replicas[0].Data, []string{"already holds replica r1"}},
			{"init where nothing can be written", "tenderd init --addr 127.0.0.1:1 --data /proc/tender", []string{"data directory", "writable", "--data"}},
			{"init without an address", "tenderd init --data " + t.TempDir(), []string{"--addr", "reach this machine"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				args := strings.Fields(c.args)
				_, stderr, code := harness.Run(t, "", harness.Program(args[0]), args[1:]...)
				if code == 0 {
					t.Error("it was accepted")
				}
				wantText(t, stderr, c.want...)
			})
		}
	})
}
