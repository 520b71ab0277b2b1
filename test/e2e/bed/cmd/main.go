// Command cmd builds a network bed for a script and runs programs in it.
//
//	go build -o bin/bed ./test/e2e/bed/cmd
//	bed up -prefix demo -replicas 3 -sites 2,1
//	bed names -prefix demo             # NODE ADDRESS [SITE], a line each
//	bed exec -prefix demo a1 ping 203.0.113.11
//	bed cut|restore -prefix demo r1    # a node's cable; a router's is its uplink
//	bed part -prefix demo c1 c2        # nothing between these two; heal ends it
//	bed check -prefix demo             # prove that the NAT is one
//	bed down -prefix demo              # ends what runs in it, too
//
// exec becomes the program: its pid is the program's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/tenderfleet/tender/test/e2e/bed"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bed:", err)
		os.Exit(1)
	}
}

var words = []string{"up", "names", "exec", "cut", "restore", "part", "heal", "rebind", "check", "down"}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 || !slices.Contains(words, args[0]) {
		return fmt.Errorf("say what first: %s", strings.Join(words, ", "))
	}
	fs := flag.NewFlagSet("bed "+args[0], flag.ContinueOnError)
	prefix := fs.String("prefix", "tender", "of the namespaces' names")
	replicas := fs.Int("replicas", 3, "how many")
	sites := fs.String("sites", "1", "agents of each site, with commas")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "up":
		cfg := bed.Config{Prefix: *prefix, Replicas: *replicas}
		for s := range strings.SplitSeq(*sites, ",") {
			n, err := strconv.Atoi(s)
			if err != nil {
				return fmt.Errorf("sites: %w", err)
			}
			cfg.Sites = append(cfg.Sites, n)
		}
		_, err := bed.Up(ctx, cfg)
		return err
	case "down":
		return bed.Clean(ctx, *prefix)
	}
	b, err := bed.Open(ctx, *prefix)
	if err != nil {
		return err
	}
	return do(ctx, b, args[0], fs.Args(), out)
}

// do acts on a bed that is there.
func do(ctx context.Context, b *bed.Bed, what string, args []string, out io.Writer) error {
	nodes := map[string]int{"cut": 1, "restore": 1, "rebind": 1, "part": 2}
	if n, ok := nodes[what]; ok && len(args) != n {
		return fmt.Errorf("%s: want %d nodes, got %d", what, n, len(args))
	}
	switch what {
	case "names":
		for _, k := range []bed.Kind{bed.Replica, bed.Router, bed.Agent} {
			for _, n := range b.Nodes(k) {
				fmt.Fprintln(out, strings.TrimSuffix(fmt.Sprintf("%s %s %d", n.Name, n.Addr, n.Site), " 0"))
			}
		}
		return nil
	case "exec":
		return become(b, args)
	case "cut":
		return b.Cut(ctx, args[0])
	case "restore":
		return b.Restore(ctx, args[0])
	case "rebind":
		return b.Rebind(ctx, args[0])
	case "part":
		return b.Part(ctx, args[0], args[1])
	case "heal":
		return b.Heal(ctx)
	case "check":
		return b.CheckNAT(ctx)
	}
	return nil
}

// become replaces this process by a program on a node.
func become(b *bed.Bed, args []string) error {
	if len(args) > 1 && args[1] == "--" {
		args = slices.Delete(args, 1, 2)
	}
	if len(args) < 2 {
		return errors.New("exec: say the node and the program")
	}
	if _, err := b.Node(args[0]); err != nil {
		return err
	}
	argv := b.Argv(args[0], args[1:]...)
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, argv, os.Environ())
}
