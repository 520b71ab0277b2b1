package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/ctrd"
	"github.com/tenderfleet/tender/test/e2e/bed"
)

const (
	prefix    = "tdemo"
	imageName = "docker.io/demo/busybox:1"
)

// stage is everything the demo puts on the machine, so that it can take all of
// it back.
type stage struct {
	dir, bin string
	bed      *bed.Bed
	procs    map[string]*proc
	daemons  map[string]*ctrd.Daemon
}

// proc is a program that runs on a node.
type proc struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

func newStage(bin string) (*stage, error) {
	for _, p := range []string{"tender", "tenderd", "tender-agent"} {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			return nil, fmt.Errorf("%w; build first: make build", err)
		}
	}
	// Short: containerd's sockets have little room for a path.
	dir, err := os.MkdirTemp("", "tdemo")
	if err != nil {
		return nil, err
	}
	return &stage{dir: dir, bin: bin, procs: map[string]*proc{}, daemons: map[string]*ctrd.Daemon{}}, nil
}

// close ends what was started, by process id, newest kind first, and reports
// what could not be taken back.
func (s *stage) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	s.drain(ctx)
	for name := range s.procs {
		s.stop(name, syscall.SIGTERM)
	}
	for _, d := range s.daemons {
		for _, l := range d.Leaks() {
			errs = append(errs, fmt.Errorf("left behind: %s", l))
		}
		d.Stop()
	}
	if s.bed != nil {
		errs = append(errs, s.bed.Down(ctx))
	}
	errs = append(errs, os.RemoveAll(s.dir))
	return errors.Join(errs...)
}

// drain stops the tasks of a demo that was cut short, so that no container
// outlives it.
func (s *stage) drain(ctx context.Context) {
	for id := range s.procs {
		if !strings.HasPrefix(id, "c") {
			continue
		}
		c, err := s.client(id)
		if err != nil {
			continue
		}
		list, err := c.Tasks(ctx, client.TaskFilter{})
		if err != nil {
			c.Close()
			continue
		}
		for _, t := range list.Tasks {
			_, _ = c.StopTask(ctx, t.ID, client.Stop{})
		}
		_ = eventually(ctx, 15*time.Second, func() (bool, error) {
			list, err := c.Tasks(ctx, client.TaskFilter{})
			return len(list.Tasks) == 0 && len(s.leaks()) == 0, err
		})
		c.Close()
		return
	}
}

func (s *stage) leaks() []string {
	var out []string
	for _, d := range s.daemons {
		out = append(out, d.Leaks()...)
	}
	return out
}

// start runs one of our programs on a node and keeps what it logs.
func (s *stage) start(ctx context.Context, name, node, program string, args ...string) error {
	log := filepath.Join(s.dir, name+".log")
	f, err := os.Create(log)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // the program has its own
	argv := s.bed.Argv(node, append([]string{filepath.Join(s.bin, program)}, args...)...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &proc{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	s.procs[name] = p
	return ctx.Err()
}

func (s *stage) stop(name string, sig syscall.Signal) {
	p := s.procs[name]
	delete(s.procs, name)
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (s *stage) printLogs() {
	for name, p := range s.procs {
		data, _ := os.ReadFile(p.log)
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		fmt.Fprintf(os.Stderr, "\n-- the end of %s's log\n%s\n", name, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}

// tool runs one of our programs on a node to its end.
func (s *stage) tool(ctx context.Context, node, program string, args ...string) (string, error) {
	out, err := s.bed.Run(ctx, node, "", filepath.Join(s.bin, program), args...)
	return strings.TrimSpace(out), err
}

func (s *stage) socket(node string) string { return filepath.Join(s.dir, node+".sock") }

func (s *stage) client(node string) (*client.Client, error) {
	return client.New(client.Config{Socket: s.socket(node), Version: "demo"})
}

// tender runs the command line as a person would, and keeps its streams apart.
func (s *stage) tender(ctx context.Context, node string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "tender"), args...)
	cmd.Env = append(os.Environ(), "TENDER_SOCKET="+s.socket(node), "HOME="+s.dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if err != nil {
		err = fmt.Errorf("tender %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), errs.String(), err
}

// eventually asks again and again until the answer is yes.
func eventually(parent context.Context, limit time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	var last error
	for {
		ok, err := ask()
		if ok && err == nil {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if parent.Err() != nil {
				return parent.Err()
			}
			return errors.Join(fmt.Errorf("not so within %v", limit), last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
