package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/wire"
)

// seekFirst is when a session over TCP first looks for QUIC: a network that was
// just switched may settle within a minute.
const seekFirst = time.Minute

// homeAfter is the least time before a session that is not with the agent's
// first replica moves there; the most is three times that. A replica that comes
// back gets its agents back one by one.
const homeAfter = 10 * time.Minute

// established is a session that a replica has welcomed.
type established struct {
	addr    string
	conn    transport.Session
	control *controlStream
	welcome wire.Welcome
}

// errMoved ends a session whose successor is established.
var errMoved = errors.New("the session has moved")

// seek looks for a better session while there is one, and returns it with
// errMoved: over QUIC instead of TCP, or with the agent's first replica. The
// control plane ends the older session of the two: what was in flight there is
// sent again, as after every change of sessions.
func (a *Agent) seek(ctx context.Context, dialer *transport.Dialer, e *established, d *rounds) (*established, error) {
	if transport.LinkOf(e.conn) == "tcp" {
		return a.seekQUIC(ctx, dialer, e.addr)
	}
	least := a.cfg.SeekHome
	if least <= 0 {
		least = homeAfter
	}
	for d.addrs[0] != e.addr && sleep(ctx, least+time.Duration(2*rand.Float64()*float64(least))) {
		next, err := a.tryQUIC(ctx, dialer, d.addrs[0])
		if err == nil {
			return next, errMoved
		}
		a.log.Debug("the first replica does not answer yet", "replica", d.addrs[0], "cause", transport.Explain(err))
	}
	return nil, ctx.Err()
}

// seekQUIC looks now and then, during a session over TCP, whether UDP passes.
func (a *Agent) seekQUIC(ctx context.Context, dialer *transport.Dialer, addr string) (*established, error) {
	for try := 0; sleep(ctx, seekWait(a.cfg.SeekQUIC, try, rand.Float64())); try++ {
		e, err := a.tryQUIC(ctx, dialer, addr)
		if err == nil {
			return e, errMoved
		}
		a.log.Debug("UDP does not pass yet", "replica", addr, "cause", transport.Explain(err))
	}
	return nil, ctx.Err()
}

func (a *Agent) tryQUIC(ctx context.Context, dialer *transport.Dialer, addr string) (*established, error) {
	dialCtx, cancel := context.WithTimeout(ctx, dialTime)
	conn, err := dialer.DialQUIC(dialCtx, addr, transport.ALPNAgent, nil)
	cancel()
	if err != nil {
		return nil, err
	}
	control, welcome, err := a.greet(ctx, conn)
	if err != nil {
		return nil, errors.Join(cause(conn, err), conn.Close(transport.CodeOK, ""))
	}
	return &established{addr, conn, control, welcome}, nil
}

// seekWait is the time before a try: 1, 5 and 15 times the first one, and then
// 10 to 30 times, by chance r from [0,1), so that a fleet behind one firewall
// does not look all at once.
func seekWait(first time.Duration, try int, r float64) time.Duration {
	if first <= 0 {
		first = seekFirst
	}
	if times := []int{1, 5, 15}; try < len(times) {
		return time.Duration(times[try]) * first
	}
	return 10*first + time.Duration(r*float64(20*first))
}
