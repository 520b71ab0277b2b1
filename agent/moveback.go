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

// established is a session that a replica has welcomed.
type established struct {
	conn    transport.Session
	control *controlStream
	welcome wire.Welcome
}

// errMoved ends a session over TCP whose successor over QUIC is established.
var errMoved = errors.New("the session has moved to QUIC")

// seekQUIC looks now and then, during a session over TCP, whether UDP passes,
// and returns a session over QUIC that has been welcomed, with errMoved. The
// control plane ends the older session of the two: what was in flight there is
// sent again, as after every change of sessions.
func (a *Agent) seekQUIC(ctx context.Context, dialer *transport.Dialer, addr string, conn transport.Session) (*established, error) {
	if transport.LinkOf(conn) != "tcp" {
		return nil, nil
	}
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
	return &established{conn, control, welcome}, nil
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
