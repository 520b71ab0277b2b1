// Package shell runs programs at the other end of a line: a serial port, a
// socket, a pipe. It is how a test works on a virtual machine that has no network
// yet, or just lost it. The machine's end calls Serve and trusts the other one
// with everything.
//
//	c := shell.NewClient(conn)
//	defer c.Close()
//	out, err := c.Run(ctx, shell.Command{Argv: []string{"uname", "-r"}})
package shell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os/exec"
	"strings"
)

// Command is a program to run, with all of its input.
type Command struct {
	Argv  []string // found where the machine's end has its PATH
	Stdin []byte
	// Env is all of the program's environment.
	Env []string
}

// Result is how a program has ended, and all that it has printed.
type Result struct {
	Output []byte
	// Failed is why it did not end with 0; empty if it did.
	Failed string
}

// Shell is the machine's end; see Serve.
type Shell struct{}

// Run is called over the line.
func (Shell) Run(c Command, r *Result) error {
	if len(c.Argv) == 0 {
		return errors.New("no program")
	}
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Env, cmd.Stdin = c.Env, bytes.NewReader(c.Stdin)
	out, err := cmd.CombinedOutput()
	r.Output = out
	if err != nil {
		r.Failed = err.Error()
	}
	return nil
}

// Serve answers until the line ends. Programs run side by side.
func Serve(line io.ReadWriteCloser) error {
	s := rpc.NewServer()
	if err := s.Register(Shell{}); err != nil {
		return err
	}
	s.ServeConn(line)
	return nil
}

// Client is the near end. It is safe for concurrent use.
type Client struct{ rpc *rpc.Client }

// NewClient takes line over.
func NewClient(line io.ReadWriteCloser) *Client { return &Client{rpc.NewClient(line)} }

// Close ends the line. Programs go on at the other end.
func (c *Client) Close() error { return c.rpc.Close() }

// FailedError is a program that did not end with 0.
type FailedError struct{ Why string }

func (e *FailedError) Error() string { return e.Why }

// Run runs a program and returns what it has printed, to both outputs. The error
// is a FailedError where it did not end with 0; every other one is the line's, or
// ctx's, and what becomes of the program is not known then.
func (c *Client) Run(ctx context.Context, cmd Command) ([]byte, error) {
	var r Result
	call := c.rpc.Go("Shell.Run", cmd, &r, make(chan *rpc.Call, 1))
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("run %s: %w", strings.Join(cmd.Argv, " "), context.Cause(ctx))
	case <-call.Done:
	}
	switch {
	case call.Error != nil:
		return nil, fmt.Errorf("run %s: %w", strings.Join(cmd.Argv, " "), call.Error)
	case r.Failed != "":
		return r.Output, &FailedError{r.Failed}
	}
	return r.Output, nil
}
