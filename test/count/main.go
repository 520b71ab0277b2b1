// Command count runs go test and counts what ran.
//
//	go run ./test/count -tally FILE go test -race ./...
//	go run ./test/count -sum FILE
//
// It prints one line for each package and everything about what failed. With
// -tally it adds its counts to FILE; -sum prints the closing line over all of
// them. A skipped test fails the run where CI=true: there, whatever a test needs
// is to be installed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv("CI") == "true", os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, strict bool, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("count", flag.ContinueOnError)
	fs.SetOutput(stderr)
	tally := fs.String("tally", "", "add the counts to this `file`")
	sum := fs.String("sum", "", "print the sum of this `file` and end")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if *sum != "" {
		return closing(*sum, stdout, stderr)
	}
	if fs.NArg() < 2 {
		fmt.Fprintln(stderr, "count: no command: give it as in: count go test ./...")
		return 2
	}
	c := counter{out: stdout, strict: strict}
	err := c.command(ctx, fs.Args())
	if *tally != "" {
		err = errors.Join(err, c.counts.append(*tally))
	}
	if err != nil {
		fmt.Fprintln(stderr, "count:", err)
		return 1
	}
	return 0
}

// command runs "go test ..." as "go test -json ...".
func (c *counter) command(ctx context.Context, args []string) error {
	cmd := exec.CommandContext(ctx, args[0], append([]string{args[1], "-json"}, args[2:]...)...)
	// go test passes the signal on to the tests, which clean up.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := c.read(events); err != nil {
		_ = cmd.Cancel()
		return errors.Join(err, cmd.Wait())
	}
	if err := cmd.Wait(); err != nil {
		// The command may fail without a test: then it is what failed.
		if c.counts.Failed == 0 {
			c.counts.Failed++
		}
		return fmt.Errorf("%s %s: %w", args[0], args[1], err)
	}
	if c.strict && c.counts.Skipped > 0 {
		return fmt.Errorf("%d tests were skipped: install what they ask for: make deps", c.counts.Skipped)
	}
	return nil
}

// closing prints the last line of a run.
func closing(name string, stdout, stderr io.Writer) int {
	total, err := sumOf(name)
	if err != nil {
		fmt.Fprintln(stderr, "count:", err)
		return 1
	}
	fmt.Fprintln(stdout, total)
	if total.Failed > 0 {
		return 1
	}
	return 0
}
