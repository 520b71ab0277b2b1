package shell_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/tenderfleet/tender/test/vm/shell"
)

func TestRun(t *testing.T) {
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- shell.Serve(far) }()
	c := shell.NewClient(near)
	for _, tc := range []struct{ stdin, script, out, failed string }{
		{"", "echo out; echo err >&2", "out\nerr\n", ""},
		{"in", "cat", "in", ""},
		{"", "echo $ONLY$HOME", "this\n", ""},
		{"", "echo before; exit 3", "before\n", "exit status 3"},
	} {
		out, err := c.Run(t.Context(), shell.Command{Argv: []string{"sh", "-c", tc.script}, Stdin: []byte(tc.stdin), Env: []string{"ONLY=this"}})
		failed, ok := errors.AsType[*shell.FailedError](err)
		if string(out) != tc.out || ok != (tc.failed != "") || ok && failed.Why != tc.failed || !ok && err != nil {
			t.Errorf("%s: %q, %v", tc.script, out, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Run(ctx, shell.Command{Argv: []string{"sleep", "2"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a program that takes long: %v", err)
	}
	// The line goes with the machine: nobody knows what became of the program.
	lost := make(chan error, 1)
	go func() {
		_, err := c.Run(t.Context(), shell.Command{Argv: []string{"sleep", "2"}})
		lost <- err
	}()
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := errors.AsType[*shell.FailedError](<-lost); ok {
		t.Error("a lost machine is taken for a program that failed")
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	_ = c.Close() // the line is gone already
}
