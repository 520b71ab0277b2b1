package bed

import (
	"net"
	"net/netip"
	"testing"
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
