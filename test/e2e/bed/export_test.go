package bed

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// Sockets opens a UDP socket on each node.
func (b *Bed) Sockets(t *testing.T, x, y string) (*net.UDPConn, *net.UDPConn) {
	t.Helper()
	var conns []*net.UDPConn
	for _, node := range []string{x, y} {
		c, err := b.socket(node)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		conns = append(conns, c)
	}
	return conns[0], conns[1]
}

// Hello is probe, to the port of there at addr.
func Hello(here, there *net.UDPConn, addr netip.Addr) (netip.AddrPort, error) {
	return probe(here, there, netip.AddrPortFrom(addr, port(there.LocalAddr())))
}

// Dial makes a TCP connection to a listener on another node.
func (b *Bed) Dial(from, to string) error { return b.dial(from, to) }

// Count sends numbered packets from here to there and returns the numbers that
// came, in order.
func Count(here, there *net.UDPConn, addr netip.Addr, n byte) (got []byte, err error) {
	target := netip.AddrPortFrom(addr, port(there.LocalAddr()))
	for i := range n {
		if _, err := here.WriteToUDPAddrPort([]byte{i}, target); err != nil {
			return nil, err
		}
	}
	buf := make([]byte, 16)
	for {
		if err := there.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return nil, err
		}
		if _, _, err := there.ReadFromUDPAddrPort(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			return got, nil // nothing comes any more
		} else if err != nil {
			return got, err
		}
		got = append(got, buf[0])
	}
}
