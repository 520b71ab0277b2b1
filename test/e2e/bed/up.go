package bed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Up builds a bed. On an error it leaves nothing.
func Up(ctx context.Context, cfg Config) (*Bed, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := ready(); err != nil {
		return nil, err
	}
	if old, err := namespaces(cfg.Prefix); err != nil {
		return nil, err
	} else if len(old) > 0 {
		return nil, fmt.Errorf("a bed with prefix %q is there already: take it down first", cfg.Prefix)
	}
	b := &Bed{prefix: cfg.Prefix}
	built, err := b.build(ctx, cfg)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build the network bed: %w", err), Clean(context.WithoutCancel(ctx), cfg.Prefix))
	}
	return built, nil
}

func (cfg Config) check() error {
	if cfg.Replicas < 1 || cfg.Replicas > 9 {
		return fmt.Errorf("%d replicas: want 1 to 9", cfg.Replicas)
	}
	if len(cfg.Sites) > 9 {
		return fmt.Errorf("%d sites: want at most 9", len(cfg.Sites))
	}
	for i, n := range cfg.Sites {
		if n < 1 || n > 50 {
			return fmt.Errorf("%d agents at site %d: want 1 to 50", n, i+1)
		}
	}
	return nil
}

func (b *Bed) build(ctx context.Context, cfg Config) (*Bed, error) {
	if err := b.bridge(ctx, wan, "wan"); err != nil {
		return nil, err
	}
	for i := 1; i <= cfg.Replicas; i++ {
		c := fmt.Sprintf("c%d", i)
		if err := b.add(ctx, c, ""); err != nil {
			return nil, err
		}
		if err := b.plug(ctx, c, "e0", wan, "wan", fmt.Sprintf("203.0.113.%d/24", 10+i), ""); err != nil {
			return nil, err
		}
	}
	if err := b.add(ctx, "o1", ""); err != nil {
		return nil, err
	}
	if err := b.plug(ctx, "o1", "e0", wan, "wan", "203.0.113.200/24", ""); err != nil {
		return nil, err
	}
	agents := 0
	for i, n := range cfg.Sites {
		if err := b.site(ctx, i+1, agents, n); err != nil {
			return nil, err
		}
		agents += n
	}
	return Open(ctx, b.prefix)
}

// site builds a router and the agents behind it; before counts the agents of
// the sites before.
func (b *Bed) site(ctx context.Context, number, before, agents int) error {
	r := fmt.Sprintf("r%d", number)
	gateway := fmt.Sprintf("198.18.%d.1", number)
	if err := b.bridge(ctx, r, "lan"); err != nil {
		return err
	}
	if err := b.ip(ctx, r, "addr add "+gateway+"/24 dev lan"); err != nil {
		return err
	}
	if err := b.plug(ctx, r, "up0", wan, "wan", fmt.Sprintf("203.0.113.%d/24", 100+number), ""); err != nil {
		return err
	}
	if err := b.translate(ctx, r); err != nil {
		return err
	}
	for i := before + 1; i <= before+agents; i++ {
		a := fmt.Sprintf("a%d", i)
		if err := b.add(ctx, a, ""); err != nil {
			return err
		}
		// Numbered through all sites: 9 sites of 50 would not fit.
		addr := fmt.Sprintf("198.18.%d.%d/24", number, 11+(i-1)%200)
		if err := b.plug(ctx, a, "e0", r, "lan", addr, gateway); err != nil {
			return err
		}
	}
	return nil
}

// add makes a namespace.
func (b *Bed) add(ctx context.Context, node, batch string) error {
	if _, err := command(ctx, "", "ip", "netns", "add", b.netns(node)); err != nil {
		return err
	}
	return b.ip(ctx, node, "link set lo up", batch)
}

// bridge makes a namespace with a switch in it.
func (b *Bed) bridge(ctx context.Context, node, name string) error {
	// Its own address, else it takes that of a port and changes it with the ports.
	if err := b.add(ctx, node, "link add "+name+" address 02:00:00:00:00:01 type bridge\nlink set "+name+" up"); err != nil {
		return err
	}
	// Else a bridge hands its frames to the filters of IP, and those of a
	// neighbour on the same bridge are dropped as forwarded.
	return b.In(node, func() error {
		for _, family := range []string{"iptables", "ip6tables", "arptables"} {
			err := sysctl("net/bridge/bridge-nf-call-"+family, "0")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// plug connects a node with a switch. The port on the switch's side has the
// node's name.
func (b *Bed) plug(ctx context.Context, node, dev, at, bridge, addr, gateway string) error {
	err := b.ip(ctx, node, fmt.Sprintf("link add %s type veth peer name %s netns %s", dev, node, b.netns(at)),
		fmt.Sprintf("addr add %s dev %s", addr, dev), fmt.Sprintf("link set %s up", dev))
	if err != nil {
		return err
	}
	if err := b.ip(ctx, at, fmt.Sprintf("link set %s master %s up", node, bridge)); err != nil {
		return err
	}
	if gateway == "" {
		return nil
	}
	return b.ip(ctx, node, "route add default via "+gateway)
}

// translate makes a router of a namespace: out with the router's address and
// any port, nothing in that was not asked for.
func (b *Bed) translate(ctx context.Context, router string) error {
	if err := b.In(router, func() error { return sysctl("net/ipv4/ip_forward", "1") }); err != nil {
		return err
	}
	_, err := b.Run(ctx, router, `
table ip nat {
  chain post {
    type nat hook postrouting priority 100
    oifname "up0" masquerade random,fully-random
  }
}
table ip filt {
  chain forward {
    type filter hook forward priority 0
    policy drop
    ct state established,related accept
    iifname "lan" oifname "up0" accept
  }
  chain input {
    type filter hook input priority 0
    iifname "up0" ct state new drop
  }
}
`, "nft", "-f", "-")
	return err
}

// ip runs lines of ip(8) in a node.
func (b *Bed) ip(ctx context.Context, node string, lines ...string) error {
	_, err := command(ctx, strings.Join(lines, "\n")+"\n", "ip", "-n", b.netns(node), "-batch", "-")
	return err
}

// sysctl sets a value in the network namespace of the calling thread.
func sysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
}
