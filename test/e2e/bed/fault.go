package bed

import (
	"context"
	"fmt"
)

// Cut takes a node's cable out. A router's is its uplink: its site goes on by
// itself.
func (b *Bed) Cut(ctx context.Context, node string) error { return b.cable(ctx, node, "down") }

// Restore puts a node's cable back. It carries packets again within a second or
// two.
func (b *Bed) Restore(ctx context.Context, node string) error { return b.cable(ctx, node, "up") }

func (b *Bed) cable(ctx context.Context, node, state string) error {
	n, err := b.Node(node)
	if err != nil {
		return err
	}
	at := wan
	if n.Kind == Agent {
		at = fmt.Sprintf("r%d", n.Site)
	}
	return b.ip(ctx, at, "link set "+node+" "+state)
}

// Part drops every packet between two nodes of the wide-area network, both
// ways; each still reaches the others.
func (b *Bed) Part(ctx context.Context, x, y string) error {
	for _, name := range []string{x, y} {
		n, err := b.Node(name)
		if err != nil {
			return err
		}
		if n.Kind == Agent {
			return fmt.Errorf("part %s from %s: agents are not on the wide-area network: cut them", x, y)
		}
	}
	_, err := b.Run(ctx, wan, fmt.Sprintf(`
table bridge part {
  chain forward {
    type filter hook forward priority 0
    iifname %q oifname %q drop
    iifname %q oifname %q drop
  }
}
`, x, y, y, x), "nft", "-f", "-")
	return err
}

// Heal ends what Part began, between all nodes.
func (b *Bed) Heal(ctx context.Context) error {
	_, err := b.Run(ctx, wan, "table bridge part\ndelete table bridge part\n", "nft", "-f", "-")
	return err
}

// Rebind makes a router forget whom it translates, as one does that restarts:
// what the agents behind it send next comes from other ports.
func (b *Bed) Rebind(ctx context.Context, router string) error {
	_, err := b.Run(ctx, router, "", "conntrack", "-F")
	return err
}
