package bed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Config says what to build.
type Config struct {
	Prefix   string // of the namespaces' names: a letter, then at most 11 letters or digits
	Replicas int    // 1 to 9
	Sites    []int  // the agents of each site, 1 to 50; at most 9 sites
}

// Kind is what a node is for.
type Kind byte

const (
	Replica  Kind = 'c'
	Router   Kind = 'r'
	Agent    Kind = 'a'
	Operator Kind = 'o' // there is one, o1, for clients of the replicas
)

// Node is one machine of the bed.
type Node struct {
	Name string // c1, r1, a1: the kind and a number
	Kind Kind
	Addr netip.Addr // a router's is the one on the wide-area network
	Site int        // 0 for those on the wide-area network
}

// Bed is a network that was built, by this process or another.
type Bed struct {
	prefix string
	nodes  []Node
	cables []*Cable
}

const (
	wan      = "w" // the node that is the wide-area network
	netnsDir = "/run/netns"
)

var prefixes = regexp.MustCompile(`^[a-z][a-z0-9]{0,11}$`)

// Open finds a bed that was built before.
func Open(ctx context.Context, prefix string) (*Bed, error) {
	names, err := namespaces(prefix)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("there is no bed with prefix %q: build it first", prefix)
	}
	b := &Bed{prefix: prefix}
	for _, name := range names {
		if name == wan {
			continue
		}
		n := Node{Name: name, Kind: Kind(name[0])}
		if n.Addr, err = b.address(ctx, n); err != nil {
			return nil, err
		}
		switch n.Kind {
		case Router:
			n.Site, err = strconv.Atoi(name[1:])
		case Agent:
			n.Site = int(n.Addr.As4()[2])
		case Replica, Operator:
		default:
			err = fmt.Errorf("namespace %s is no node of a bed", b.netns(name))
		}
		if err != nil {
			return nil, err
		}
		b.nodes = append(b.nodes, n)
	}
	slices.SortFunc(b.nodes, func(x, y Node) int {
		return cmp.Or(cmp.Compare(strings.IndexByte("crao", byte(x.Kind)), strings.IndexByte("crao", byte(y.Kind))),
			cmp.Compare(len(x.Name), len(y.Name)), cmp.Compare(x.Name, y.Name))
	})
	return b, nil
}

// address asks the namespace, so that a bed needs no record beside itself.
func (b *Bed) address(ctx context.Context, n Node) (netip.Addr, error) {
	out, err := command(ctx, "", "ip", "-n", b.netns(n.Name), "-o", "-4", "addr", "show", "dev", device(n.Kind))
	if err != nil {
		return netip.Addr{}, err
	}
	if _, rest, ok := strings.Cut(out, " inet "); ok {
		p, err := netip.ParsePrefix(strings.Fields(rest)[0])
		return p.Addr(), err
	}
	return netip.Addr{}, fmt.Errorf("%s has no address: take the bed down and build it again", b.netns(n.Name))
}

// device is the interface by which others know a node.
func device(k Kind) string {
	if k == Router {
		return "up0"
	}
	return "e0"
}

// Nodes returns all nodes of one kind, in order.
func (b *Bed) Nodes(k Kind) []Node {
	return slices.DeleteFunc(slices.Clone(b.nodes), func(n Node) bool { return n.Kind != k })
}

// Node returns the node with that name.
func (b *Bed) Node(name string) (Node, error) {
	i := slices.IndexFunc(b.nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, fmt.Errorf("bed %s has no node %q", b.prefix, name)
	}
	return b.nodes[i], nil
}

// Addr returns a node's address; it panics if there is no such node, which is a
// mistake in the test that asks.
func (b *Bed) Addr(name string) netip.Addr {
	n, err := b.Node(name)
	if err != nil {
		panic(err)
	}
	return n.Addr
}

// Down removes the bed and ends every process in it.
func (b *Bed) Down(ctx context.Context) error {
	// A cable's devices would keep a namespace alive without a name.
	for _, c := range b.cables {
		c.stop()
	}
	b.cables = nil
	return Clean(ctx, b.prefix)
}

// Clean removes the bed with that prefix, whatever is left of it, and ends every
// process in it. Without one it does nothing.
func Clean(ctx context.Context, prefix string) error {
	names, err := namespaces(prefix)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return nil
	}
	if err := ready(); err != nil {
		return err
	}
	var failed []error
	for _, name := range names {
		failed = append(failed, remove(ctx, prefix+"-"+name))
	}
	return errors.Join(failed...)
}

// remove ends a namespace. Its processes would keep it alive without a name.
func remove(ctx context.Context, netns string) error {
	pids, err := command(ctx, "", "ip", "netns", "pids", netns)
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(pids) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			return fmt.Errorf("ip netns pids %s: %w", netns, err)
		}
		if n == os.Getpid() {
			continue // one of its threads is in In
		}
		if p, err := os.FindProcess(n); err == nil {
			_ = p.Kill() // it may have ended by itself
		}
	}
	_, err = command(ctx, "", "ip", "netns", "delete", netns)
	return err
}

// namespaces lists the nodes whose namespaces exist.
func namespaces(prefix string) ([]string, error) {
	if !prefixes.MatchString(prefix) {
		return nil, fmt.Errorf("prefix %q: want a letter, then at most 11 letters or digits", prefix)
	}
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if node, ok := strings.CutPrefix(e.Name(), prefix+"-"); ok && node != "" {
			names = append(names, node)
		}
	}
	return names, nil
}

func (b *Bed) netns(node string) string { return b.prefix + "-" + node }

func (b *Bed) netnsPath(node string) string { return filepath.Join(netnsDir, b.netns(node)) }

// ready says what is missing before a half-built bed does.
func ready() error {
	if os.Geteuid() != 0 {
		return errors.New("the network bed needs root: run it as root, as in: sudo make e2e")
	}
	for _, name := range []string{"ip", "nft", "conntrack", "nsenter"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("the network bed needs %s: run make deps", name)
		}
	}
	return nil
}

// command runs a program of this machine and returns what it printed.
func command(ctx context.Context, stdin, name string, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, name, args...), stdin)
}

func output(cmd *exec.Cmd, stdin string) (string, error) {
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
