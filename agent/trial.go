package agent

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/gate"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/wire"
)

// tell lets who watches this version of the agent know what happened.
func (a *Agent) tell(ev gate.Event) {
	if a.cfg.Watch != nil {
		a.cfg.Watch(ev)
	}
}

// called is what became of a call to the container runtime. A runtime that
// cannot be reached or is slow says nothing of the agent.
func called(err error) gate.Runtime {
	switch {
	case err == nil:
		return gate.Runtime{}
	case errors.Is(err, executor.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return gate.Runtime{Away: true}
	}
	return gate.Runtime{Err: err.Error()}
}

// faultless are the refusals that every version of the agent would get.
var faultless = map[wire.RefusalCode]bool{
	wire.RefusedRevoked: true, wire.RefusedUnknownAgent: true, wire.RefusedCloned: true,
	wire.RefusedNotLeader: true, wire.RefusedDraining: true, wire.RefusedBusy: true,
}

// answers are the failures that show that a replica has answered.
var answers = []error{
	transport.ErrCertificateRefused, transport.ErrCertificateExpired, transport.ErrUnknownAuthority,
	transport.ErrCertificateRequired, transport.ErrNoProtocol, transport.ErrPeerDistrusted,
}

// silences are the ends of a session that are the network's or the machine's.
var silences = []error{
	transport.ErrUnreachable, transport.ErrIdle, transport.ErrPeerRestarted, transport.ErrBusy,
	errSilent, errMoved, errUnconfirmed, context.DeadlineExceeded, os.ErrDeadlineExceeded, context.Canceled, syscall.ENOSPC,
}

// missed is what the end of a session, or of a try to have one, says of this
// version: nothing if nobody answered or the answer was about something else.
func missed(err error) gate.NoSession {
	is := func(kind error) bool { return errors.Is(err, kind) }
	refused, ok := errors.AsType[*refusedError](err)
	if ok && faultless[refused.r.Code] {
		return gate.NoSession{}
	}
	closed, ok := errors.AsType[*transport.CloseError](err)
	if ok && closed.Code != transport.CodeProtocol && closed.Code != transport.CodeTooOld {
		return gate.NoSession{}
	}
	_, dialled := errors.AsType[*transport.DialError](err)
	if !slices.ContainsFunc(answers, is) && (dialled || slices.ContainsFunc(silences, is)) {
		return gate.NoSession{}
	}
	return gate.NoSession{Err: transport.Explain(err)}
}
