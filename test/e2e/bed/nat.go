package bed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// patience is how long a packet of a bed may take: it never leaves the machine.
const patience = 300 * time.Millisecond

// CheckNAT proves that the first agent of each site can reach the first replica
// and is seen there as its router, and that the replica cannot reach the agent,
// even with a route to it.
func (b *Bed) CheckNAT(ctx context.Context) error {
	c := b.Nodes(Replica)[0]
	for _, r := range b.Nodes(Router) {
		for _, a := range b.Nodes(Agent) {
			if a.Site != r.Site {
				continue
			}
			seen, err := b.Probe(a.Name, c.Name)
			if err != nil {
				return fmt.Errorf("%s does not reach %s: %w", a.Name, c.Name, err)
			}
			if seen.Addr() != r.Addr {
				return fmt.Errorf("%s sees %s as %s, not as its router %s", c.Name, a.Name, seen, r.Addr)
			}
			if err := b.unreachable(ctx, a, r, c); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// unreachable dials an agent from a replica that has a route to it.
func (b *Bed) unreachable(ctx context.Context, a, r, c Node) (err error) {
	lan := netip.PrefixFrom(a.Addr, 24).Masked()
	if err := b.ip(ctx, c.Name, fmt.Sprintf("route add %s via %s", lan, r.Addr)); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, b.ip(context.WithoutCancel(ctx), c.Name, "route del "+lan.String()))
	}()
	// The router reaches it: a listener that nobody reaches proves nothing.
	if err := b.dial(r.Name, a.Name); err != nil {
		return fmt.Errorf("%s does not reach %s on its own network: %w", r.Name, a.Name, err)
	}
	if err := b.dial(c.Name, a.Name); err == nil {
		return fmt.Errorf("%s reaches %s through the NAT of %s", c.Name, a.Name, r.Name)
	}
	return nil
}

// dial makes a TCP connection to a listener on another node.
func (b *Bed) dial(from, to string) error {
	var l net.Listener
	if err := b.In(to, func() (err error) {
		l, err = net.Listen("tcp4", "0.0.0.0:0")
		return err
	}); err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	target := netip.AddrPortFrom(b.Addr(to), port(l.Addr()))
	return b.In(from, func() error {
		conn, err := net.DialTimeout("tcp4", target.String(), patience)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// Probe sends a datagram from one node to another and back, and returns the
// address that the other saw.
func (b *Bed) Probe(from, to string) (seen netip.AddrPort, err error) {
	there, err := b.socket(to)
	if err != nil {
		return seen, err
	}
	defer func() { _ = there.Close() }()
	here, err := b.socket(from)
	if err != nil {
		return seen, err
	}
	defer func() { _ = here.Close() }()
	return probe(here, there, netip.AddrPortFrom(b.Addr(to), port(there.LocalAddr())))
}

// socket opens a UDP socket on a node.
func (b *Bed) socket(node string) (conn *net.UDPConn, err error) {
	err = b.In(node, func() error {
		conn, err = net.ListenUDP("udp4", nil)
		return err
	})
	return conn, err
}

// probe says hello from here to there, at target, and waits for the answer.
func probe(here, there *net.UDPConn, target netip.AddrPort) (seen netip.AddrPort, err error) {
	buf := make([]byte, 16)
	if _, err := here.WriteToUDPAddrPort([]byte("hello"), target); err != nil {
		return seen, err
	}
	if err := there.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return seen, err
	}
	if _, seen, err = there.ReadFromUDPAddrPort(buf); err != nil {
		return seen, err
	}
	if _, err := there.WriteToUDPAddrPort([]byte("hello yourself"), seen); err != nil {
		return seen, err
	}
	if err := here.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return seen, err
	}
	_, _, err = here.ReadFromUDPAddrPort(buf)
	return seen, err
}

func port(a net.Addr) uint16 {
	return netip.MustParseAddrPort(a.String()).Port()
}
