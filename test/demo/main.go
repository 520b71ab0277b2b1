// Command demo is Tender's main job on one machine: three replicas on a small
// internet of network namespaces, two agents behind a NAT that lets nobody in,
// real containers under a containerd of the demo's own, GPUs on fake devices,
// and a leader killed in the middle. It tells a short story of what happened
// and exits 0 only if every part of it was true.
//
//	make demo
//
// It needs root for namespaces, device nodes and containers, and takes back
// whatever it did, also on Ctrl-C.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo failed:", err)
		stop()
		os.Exit(1) //nolint:gocritic // everything was cleaned up by run
	}
	fmt.Println("\nEvery part of this was checked. Nothing of it is left on the machine.")
}

func run(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("namespaces, device nodes and containers need root; run: sudo make demo")
	}
	bin := "bin"
	if len(os.Args) > 1 {
		bin = os.Args[1]
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	s, err := newStage(bin)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.printLogs()
		}
		if e := s.close(); err == nil {
			err = e
		}
	}()
	for _, act := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"A small internet: three servers, and two machines behind a NAT", s.buildNetwork},
		{"The control plane: tenderd init, then tenderd join twice", s.formTrio},
		{"The machines join by token, dialling out", s.joinAgents},
		{"A word count over a real text", s.countWords},
		{"Two GPU tasks at once, each with exactly its own GPU", s.useGPUs},
		{"The leader is killed while a task runs", s.killLeader},
	} {
		fmt.Printf("\n== %s\n", act.title)
		if err := act.play(ctx); err != nil {
			return fmt.Errorf("%s: %w", act.title, err)
		}
	}
	return nil
}

// tell prints one sentence of the story.
func tell(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }
