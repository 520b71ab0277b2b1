package transporttest

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// Net is a network of UDP sockets in memory. Every packet takes the latency.
type Net struct {
	tb      testing.TB
	latency time.Duration
	router  simnet.PerfectRouter

	mu  sync.Mutex
	cut map[string]bool // by address, or "from>to" for one pair
	// last is when a packet was last handed to an address.
	last map[string]time.Time
	// bytes are what an address sent and was sent, delivered or not.
	bytes map[string]traffic
	// nat maps an address inside to the one that others see, and back.
	nat map[string]net.Addr
}

// traffic is counted in bytes of UDP payload and in packets.
type traffic struct{ sent, received, packets int64 }

// NewNet makes a network that lives until the test ends.
func NewNet(tb testing.TB, latency time.Duration) *Net {
	return &Net{tb: tb, latency: latency, cut: make(map[string]bool), last: make(map[string]time.Time), bytes: make(map[string]traffic), nat: make(map[string]net.Addr)}
}

// Conn makes the socket of an address such as "10.0.0.1:7443". Sockets of one
// address may follow each other, as when a process restarts.
func (n *Net) Conn(addr string) net.PacketConn {
	n.tb.Helper()
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		n.tb.Fatal(err)
	}
	// Both addresses as the router compares them: four bytes for IPv4.
	udp := &net.UDPAddr{IP: at.Addr().AsSlice(), Port: int(at.Port())}
	link := &simnet.SimulatedLink{Latency: n.latency, UploadPacket: (*uplink)(n)}
	conn := simnet.NewBlockingSimConn(udp, link)
	link.Start() // first: somebody may be sending to the address already
	n.router.AddNode(udp, link)
	n.tb.Cleanup(func() {
		conn.Close()
		link.Close()
	})
	return conn
}

// Cut stops every packet from and to the addresses.
func (n *Net) Cut(addrs ...string) { n.set(true, addrs) }

// Heal undoes Cut.
func (n *Net) Heal(addrs ...string) { n.set(false, addrs) }

// Part stops packets between a and b, in both directions; Join undoes it.
func (n *Net) Part(a, b string) { n.set(true, []string{a + ">" + b, b + ">" + a}) }

// Join undoes Part.
func (n *Net) Join(a, b string) { n.set(false, []string{a + ">" + b, b + ">" + a}) }

func (n *Net) set(cut bool, keys []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range keys {
		n.cut[k] = cut
	}
}

// LastDelivery is when the last packet arrived at addr.
func (n *Net) LastDelivery(addr string) time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last[addr]
}

// Traffic is what an address has sent and received so far, in bytes of UDP
// payload and in packets.
func (n *Net) Traffic(addr string) (sent, received, packets int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.bytes[addr]
	return t.sent, t.received, t.packets
}

// Rebind puts a NAT before the machine at addr and has it forget what it knew:
// from now on others see the machine at outside, and what is sent to where they
// saw it before is lost. Only the first packet from inside makes the new
// address reachable.
func (n *Net) Rebind(addr, outside string) {
	n.tb.Helper()
	at, err := netip.ParseAddrPort(outside)
	if err != nil {
		n.tb.Fatal(err)
	}
	inside, err := netip.ParseAddrPort(addr)
	if err != nil {
		n.tb.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.nat[addr]; old != nil {
		n.cut[old.String()] = true
		delete(n.nat, old.String())
	} else {
		n.cut["*>"+addr] = true
	}
	n.nat[addr] = &net.UDPAddr{IP: at.Addr().AsSlice(), Port: int(at.Port())}
	n.nat[outside] = &net.UDPAddr{IP: inside.Addr().AsSlice(), Port: int(inside.Port())}
	n.cut["*>"+outside] = true
}

// uplink is the Net as simnet's sockets see it.
type uplink Net

// count books a packet; the caller holds mu.
func (u *uplink) count(from, to string, n int64) {
	f := u.bytes[from]
	u.bytes[from] = traffic{f.sent + n, f.received, f.packets + 1}
	t := u.bytes[to]
	u.bytes[to] = traffic{t.sent, t.received + n, t.packets + 1}
}

func (u *uplink) AddNode(net.Addr, simnet.PacketReceiver) {}

func (u *uplink) SendPacket(p simnet.Packet) error {
	from, to := p.From.String(), p.To.String()
	u.mu.Lock()
	drop := u.cut[from] || u.cut[to] || u.cut[from+">"+to] || u.cut["*>"+to]
	u.count(from, to, int64(len(p.Data)))
	if out := u.nat[from]; out != nil {
		p.From = out
		delete(u.cut, "*>"+out.String())
	}
	if in := u.nat[to]; in != nil {
		p.To, to = in, in.String()
	}
	if !drop {
		u.last[to] = time.Now().Add(u.latency)
	}
	u.mu.Unlock()
	if !drop {
		_ = u.router.SendPacket(p) // nobody there: lost, as on a real network
	}
	return nil
}

// Gate is a socket that can be made to drop everything that it sends, as on a
// network where UDP does not pass.
type Gate struct {
	net.PacketConn
	shut atomic.Bool
}

// NewGate makes one of conn, open or shut.
func NewGate(conn net.PacketConn, shut bool) *Gate {
	g := &Gate{PacketConn: conn}
	g.Shut(shut)
	return g
}

// Shut shuts the gate, or opens it.
func (g *Gate) Shut(shut bool) { g.shut.Store(shut) }

// WriteTo implements net.PacketConn.
func (g *Gate) WriteTo(b []byte, to net.Addr) (int, error) {
	if g.shut.Load() {
		return len(b), nil
	}
	return g.PacketConn.WriteTo(b, to)
}
