package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// NetNS is the path of a node's network namespace.
func (b *Bed) NetNS(node string) string { return b.netnsPath(node) }

// Argv is the command line that runs a program on a node. nsenter becomes the
// program, so that a pid is the program's own; unlike ip netns exec it leaves
// /sys as it is, where the program finds its cgroups.
func (b *Bed) Argv(node string, argv ...string) []string {
	return append([]string{"nsenter", "--net=" + b.netnsPath(node), "--"}, argv...)
}

// Command is exec.CommandContext on a node.
func (b *Bed) Command(ctx context.Context, node, name string, args ...string) *exec.Cmd {
	argv := b.Argv(node, append([]string{name}, args...)...)
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}

// Run runs a program on a node to its end and returns what it printed; what it
// complained of is in the error.
func (b *Bed) Run(ctx context.Context, node, stdin, name string, args ...string) (string, error) {
	return output(b.Command(ctx, node, name, args...), stdin)
}

// In calls fn while its thread is on the node, and returns its error. Sockets
// that fn itself makes belong to the node for good; goroutines that it starts
// are not on the node. To dial, give the address in numbers.
func (b *Bed) In(node string, fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { _ = home.Close() }()
	there, err := os.Open(b.netnsPath(node))
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { _ = there.Close() }()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", b.netns(node), err)
	}
	failed := fn()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		// The thread stays locked, so that it ends with its goroutine and
		// nothing else of the process runs on the node by mistake.
		return errors.Join(failed, fmt.Errorf("leave %s: %w", b.netns(node), err))
	}
	runtime.UnlockOSThread()
	return failed
}
