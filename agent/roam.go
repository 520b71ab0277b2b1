package agent

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/tenderfleet/tender/transport"
)

// routeEvery is how often the agent looks which way its packets go. A look
// costs no packet.
const routeEvery = 2 * time.Second

// roamed says that the way to the replica begins at another address now.
type roamed struct{}

var errRoamed = errors.New("this machine is on another network now")

// roam notices that the machine has moved to another network. The UDP socket
// belongs to no address, so QUIC's session follows with the next packet: one is
// sent at once, and the replica then knows the new way. TCP cannot follow; its
// session is given up, and the next one dialled.
func (a *Agent) roam(ctx context.Context, l *link, dialer *transport.Dialer) error {
	route := a.cfg.Route
	if route == nil {
		if a.cfg.Conn != nil {
			return nil // whoever replaced the socket knows the network
		}
		route = localAddr
	}
	remote := transport.RemoteAddr(l.conn)
	was := route(remote)
	for sleep(ctx, routeEvery) {
		now := route(remote)
		if now == was || now == "" { // no way at all: it may come back
			continue
		}
		if was != "" {
			a.log.Info("the way to the replica has changed", "from", was, "to", now)
			dialer.Forget()
			if transport.LinkOf(l.conn) != "quic" {
				return errRoamed
			}
			l.queue(roamed{})
		}
		was = now
	}
	return ctx.Err()
}

// localAddr is where packets to remote ("host:port") leave this machine, empty
// when they do not.
func localAddr(remote string) string {
	c, err := net.Dial("udp", remote) // sends nothing
	if err != nil {
		return ""
	}
	defer c.Close() //nolint:errcheck // nothing was sent
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		return ""
	}
	return host
}
