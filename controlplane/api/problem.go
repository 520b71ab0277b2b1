package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/sessions"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/wire"
)

// redirect is the error of a follower: the leader has what was asked for.
type redirect struct{ leader, addr string }

func (e *redirect) Error() string { return "the leader is " + e.leader + " at " + e.addr }

func notLeader(s Status) error { return &redirect{string(s.Leader), s.LeaderAddr} }

// fail answers with what err says.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	if re, ok := errors.AsType[*redirect](err); ok {
		w.Header().Set(headerLeader, re.leader)
		w.Header().Set("Location", "https://"+re.addr+r.URL.RequestURI())
	}
	if p.Code == client.CodeInternal {
		h.Log.Error("api request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if p.Status() == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	if p.Code == client.CodeNoIdentity {
		w.Header().Add("WWW-Authenticate", `Bearer realm="tender"`)
		w.Header().Add("WWW-Authenticate", `Basic realm="tender", charset="UTF-8"`)
		w.Header().Set("Connection", "close") // strangers hold no connections
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status())
	_ = json.NewEncoder(w).Encode(p) // the asker is gone: nobody to tell
}

var codes = map[state.Kind]client.Code{
	state.NotFound: client.CodeNotFound, state.Conflict: client.CodeConflict, state.Invalid: client.CodeInvalid,
	state.RevokedID: client.CodeConflict, state.TokenUnknown: client.CodeNotFound,
}

// problemOf finds the words for an error. What has none is internal: its text
// goes to the log, not to the asker.
func problemOf(err error) *client.Problem {
	var (
		p       *client.Problem
		no      *access.Refusal
		refused *state.Error
		re      *redirect
		follow  *registrar.NotLeaderError
		agent   *sessions.RefusedError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &no):
		code := client.CodeForbidden
		if no.Unknown {
			code = client.CodeNoIdentity
		}
		return client.NewProblem(code, no.Next, "%s", no.Text)
	case errors.As(err, &re):
		return client.NewProblem(client.CodeNotLeader, "ask the leader", "this replica does not lead; replica %s at %s does", re.leader, re.addr)
	case errors.Is(err, registrar.ErrDiskFull):
		return client.NewProblem(client.CodeNoLeader, "try again shortly; if it happens again, make space on the disks of the replicas: tender replica ls", "%v", err)
	case errors.As(err, &follow):
		return client.NewProblem(client.CodeNoLeader, "try again shortly", "%v", follow)
	case errors.As(err, &refused):
		code, ok := codes[refused.Kind]
		if !ok {
			code = client.CodeConflict
		}
		return client.NewProblem(code, "", "%s", refused.Text)
	case errors.As(err, &agent):
		return problemOfAgent(agent.Refusal)
	case errors.Is(err, sessions.ErrNotConnected):
		return client.NewProblem(client.CodeUnavailable, "try again when it is back: tender agents", "the agent is not connected, and the output is on it")
	case errors.Is(err, registrar.ErrTooNew):
		return client.NewProblem(client.CodeConflict, "upgrade all replicas, then repeat it: tender replica ls", "%v", err)
	case errors.Is(err, registrar.ErrTimeout):
		return client.NewProblem(client.CodeUnknown, "look before you repeat it: tender ps --all", "the replicas did not agree in time; the request may still be carried out")
	case errors.Is(err, registrar.ErrClosed):
		return client.NewProblem(client.CodeNoLeader, "ask another replica", "this replica is stopping")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return client.NewProblem(client.CodeTimeout, "try again; if it happens again, look at the replicas: tender replicas", "no answer from the control plane in time")
	default:
		return client.NewProblem(client.CodeInternal, "see the log of tenderd on this replica: journalctl -u tenderd", "the replica failed to answer")
	}
}

func problemOfAgent(r wire.Refusal) *client.Problem {
	switch r.Code {
	case wire.RefusedNotFound:
		return client.NewProblem(client.CodeNotFound, "", "the agent has no output of this task: %s", r.Text)
	case wire.RefusedBusy:
		return client.NewProblem(client.CodeUnavailable, "try again shortly", "the agent is busy: %s", r.Text)
	case wire.RefusedBudget:
		return client.NewProblem(client.CodeUnavailable, "see what the link has carried: tender agent show AGENT", "the agent sends no output now: %s", r.Text)
	default:
		return client.NewProblem(client.CodeUnavailable, "", "the agent refused: %s", r.Text)
	}
}

// doneAllTheSame is err about a request that was carried out before. Of most
// errors the asker takes that nothing was, and asks again.
func doneAllTheSame(err error) error {
	switch p := problemOf(err); p.Code {
	case client.CodeNoLeader, client.CodeNotLeader, client.CodeBusy, client.CodeUnavailable, client.CodeTimeout:
		return client.NewProblem(client.CodeUnknown, "look at the outcome, there is nothing to repeat", "the request was carried out, and its outcome cannot be shown: %s", p.Detail)
	default:
		return err
	}
}

// notFound is the answer about an id that nobody has.
func notFound(what, id, list string) error {
	return client.NewProblem(client.CodeNotFound, "list them with: "+list, "there is no %s %.64q", what, id)
}
