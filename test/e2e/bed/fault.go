package bed

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Cut takes a node's cable out. A router's is its uplink: its site goes on by
// itself.
func (b *Bed) Cut(ctx context.Context, node string) error { return b.link(ctx, node, "down") }

// Restore puts a node's cable back. It carries packets again within a second or
// two.
func (b *Bed) Restore(ctx context.Context, node string) error { return b.link(ctx, node, "up") }

func (b *Bed) link(ctx context.Context, node, state string) error {
	n, err := b.Node(node)
	if err != nil {
		return err
	}
	at, _ := n.plugged()
	return b.ip(ctx, at, "link set "+node+" "+state)
}

// plugged is where a node's cable ends: a node and the switch on it.
func (n Node) plugged() (at, bridge string) {
	if n.Kind == Agent {
		return fmt.Sprintf("r%d", n.Site), "lan"
	}
	return wan, "wan"
}

// Loss says which packets of the wide-area network are lost.
type Loss struct {
	From, To string // nodes on it; empty is any
	Percent  int    // how many of them, by chance; 0 is all
	UDP      bool   // no others
}

// Drop drops packets, besides those that are dropped already.
func (b *Bed) Drop(ctx context.Context, losses ...Loss) error {
	var rules strings.Builder
	for _, l := range losses {
		rule, err := b.rule(l)
		if err != nil {
			return err
		}
		rules.WriteString(rule)
	}
	_, err := b.Run(ctx, wan, "table bridge faults {\n chain forward {\n  type filter hook forward priority 0\n"+rules.String()+" }\n}\n", "nft", "-f", "-")
	return err
}

func (b *Bed) rule(l Loss) (string, error) {
	var rule strings.Builder
	for _, end := range []struct{ key, node string }{{"iifname", l.From}, {"oifname", l.To}} {
		if end.node == "" {
			continue
		}
		n, err := b.Node(end.node)
		if err != nil {
			return "", err
		}
		if n.Kind == Agent {
			return "", fmt.Errorf("drop packets of %s: agents are not on the wide-area network: cut them", end.node)
		}
		fmt.Fprintf(&rule, "%s %q ", end.key, end.node)
	}
	// Not ARP: without answers to it nothing goes the other way either.
	rule.WriteString("ether type ip ")
	if l.UDP {
		rule.WriteString("ip protocol udp ")
	}
	if l.Percent > 0 {
		fmt.Fprintf(&rule, "numgen random mod 100 < %d ", l.Percent)
	}
	return rule.String() + "drop\n", nil
}

// Part drops every packet between two nodes of the wide-area network, both
// ways; each still reaches the others.
func (b *Bed) Part(ctx context.Context, x, y string) error {
	return b.Drop(ctx, Loss{From: x, To: y}, Loss{From: y, To: x})
}

// Heal ends what Drop and Part began, everywhere.
func (b *Bed) Heal(ctx context.Context) error {
	_, err := b.Run(ctx, wan, "table bridge faults\ndelete table bridge faults\n", "nft", "-f", "-")
	return err
}

// Rebind makes a router forget whom it translates, as one does that restarts:
// what the agents behind it send next comes from other ports.
func (b *Bed) Rebind(ctx context.Context, router string) error {
	_, err := b.Run(ctx, router, "", "conntrack", "-F")
	return err
}

// Expire sets how long a router remembers whom it translates while nothing is
// said, in whole seconds. Linux's own are 30 s, and 120 s for those answered.
func (b *Bed) Expire(router string, after time.Duration) error {
	return b.In(router, func() error {
		for _, name := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
			if err := sysctl("net/netfilter/"+name, fmt.Sprint(int(after.Seconds()))); err != nil {
				return err
			}
		}
		return nil
	})
}

// Readdress gives a router another address on the wide-area network, as a
// provider does at night; what it translated is forgotten.
func (b *Bed) Readdress(ctx context.Context, router string, to netip.Addr) error {
	i := slices.IndexFunc(b.nodes, func(n Node) bool { return n.Name == router })
	if i < 0 || b.nodes[i].Kind != Router {
		return fmt.Errorf("bed %s has no router %q: %w", b.prefix, router, fs.ErrNotExist)
	}
	// In this order: with the first address of a network the others go, too.
	err := b.ip(ctx, router, fmt.Sprintf("addr del %s/24 dev up0", b.nodes[i].Addr), fmt.Sprintf("addr add %s/24 dev up0", to))
	if err != nil {
		return err
	}
	b.nodes[i].Addr = to
	return b.Rebind(ctx, router)
}
