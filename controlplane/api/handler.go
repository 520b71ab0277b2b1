package api

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/transport/fleet"
)

// headerForwarded marks a request that a follower passed on, so that two
// replicas that each take the other for the leader do not go on for ever.
const headerForwarded = "Tender-Forwarded"

// headerLeader names the leader in a redirection.
const headerLeader = "Tender-Leader"

type handler struct {
	Options
	b       Backend
	gate    access.Gate
	noise   quiet         // of refused requests in the log
	waiting chan struct{} // one slot per request that waits for a change
	streams chan struct{} // one per log stream
}

// Handler serves the API of a replica.
func Handler(b Backend, o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NewID == nil {
		o.NewID = newID
	}
	h := &handler{
		Options: o, b: b,
		waiting: make(chan struct{}, maxWaiting), streams: make(chan struct{}, maxStreams),
	}
	h.gate = access.Gate{Replica: b.Status().ID, Local: o.Local, State: b.Stale, Now: o.Now, Bundle: o.Bundle}
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", h.serve(h.health))
	mux.Handle("GET /v1/version", h.any(access.Look, h.version))
	mux.Handle("GET /v1/tasks", h.leader(access.SeeTasks, callTime, h.listTasks))
	mux.Handle("POST /v1/tasks", h.leader(access.ActOnTasks, callTime, h.submit))
	mux.Handle("GET /v1/tasks/{id}", h.leader(access.SeeTasks, maxWait+callTime, h.getTask))
	mux.Handle("POST /v1/tasks/{id}/stop", h.leader(access.ActOnTasks, callTime, h.stopTask))
	mux.Handle("GET /v1/tasks/{id}/why", h.leader(access.SeeTasks, callTime, h.why))
	mux.Handle("GET /v1/tasks/{id}/logs", h.leader(access.SeeTasks, 0, h.logs))
	mux.Handle("GET /v1/agents", h.leader(access.SeeFleet, callTime, h.listAgents))
	mux.Handle("GET /v1/agents/{id}", h.leader(access.SeeFleet, maxWait+callTime, h.getAgent))
	mux.Handle("POST /v1/agents/{id}/revoke", h.leader(access.Administer, callTime, h.revokeAgent))
	mux.Handle("GET /v1/offers", h.leader(access.SeeFleet, callTime, h.listOffers))
	mux.Handle("GET /v1/tokens", h.leader(access.SeeRecords, callTime, h.listTokens))
	mux.Handle("POST /v1/tokens", h.leader(access.Administer, callTime, h.createToken))
	mux.Handle("DELETE /v1/tokens/{id}", h.leader(access.Administer, callTime, h.deleteToken))
	mux.Handle("GET /v1/principals", h.leader(access.SeeRecords, callTime, h.listPrincipals))
	mux.Handle("POST /v1/principals", h.leader(access.Administer, callTime, h.createPrincipal))
	mux.Handle("POST /v1/principals/{id}/revoke", h.leader(access.Administer, callTime, h.revokePrincipal))
	mux.Handle("GET /v1/whoami", h.leader(access.Look, callTime, h.whoami))
	mux.Handle("GET /v1/audit", h.leader(access.SeeRecords, callTime, h.listAudit))
	h.operate(mux)
	h.trio(mux)
	h.upgrades(mux)
	mux.Handle("/", h.any(access.Look, func(_ http.ResponseWriter, r *http.Request) error {
		return client.NewProblem(client.CodeNotFound, "see the list of routes in the manual", "there is no %s %s in this API", r.Method, r.URL.Path)
	}))
	// A browser with an operator's certificate must not be made to act by
	// somebody else's page.
	return http.NewCrossOriginProtection().Handler(mux)
}

// operate adds the routes of those who run the fleet.
func (h *handler) operate(mux *http.ServeMux) {
	see := func(do route) http.Handler { return h.leader(access.SeeFleet, callTime, do) }
	do := func(do route) http.Handler { return h.leader(access.Administer, callTime, do) }
	mux.Handle("GET /v1/ca", see(h.showCA))
	if h.CA != nil {
		mux.Handle("POST /v1/ca/rotate", do(h.rotateCA))
	}
	mux.Handle("GET /v1/roles", see(h.listRoles))
	mux.Handle("PUT /v1/roles/{role...}", do(h.putRole))
	mux.Handle("PUT /v1/quota", do(h.setQuota))
	mux.Handle("DELETE /v1/quota/{role...}", do(h.clearQuota))
	mux.Handle("POST /v1/agents/{id}/drain", do(h.onAgent(h.drainAgent)))
	mux.Handle("POST /v1/agents/{id}/deactivate", do(h.onAgent(h.deactivateAgent)))
	mux.Handle("POST /v1/agents/{id}/reactivate", do(h.onAgent(h.reactivateAgent)))
	mux.Handle("POST /v1/agents/{id}/gone", do(h.onAgent(h.agentGone)))
	mux.Handle("POST /v1/agents/{id}/settle", do(h.onAgent(h.settleAgent)))
	mux.Handle("POST /v1/agents/{id}/reserve", do(h.onAgent(h.reserve(false))))
	mux.Handle("POST /v1/agents/{id}/unreserve", do(h.onAgent(h.reserve(true))))
	mux.Handle("GET /v1/maintenance", see(h.listMaintenance))
	mux.Handle("POST /v1/maintenance", do(h.setMaintenance))
	mux.Handle("POST /v1/maintenance/clear", do(h.clearMaintenance))
	mux.Handle("GET /v1/frameworks", see(h.listFrameworks))
	mux.Handle("GET /v1/frameworks/{id}", see(h.getFramework))
	mux.Handle("POST /v1/frameworks/{id}/teardown", do(h.teardownFramework))
	// Like the same question about a task: it is for those whose work waits.
	mux.Handle("GET /v1/frameworks/{id}/why", h.leader(access.SeeTasks, callTime, h.whyFramework))
}

// newID adds 40 bits of chance, enough for the tasks that one fleet remembers.
func newID(prefix string) string {
	const random = 8
	prefix = prefix[:min(len(prefix), fleet.MaxIDLen-random-1)]
	return prefix + "-" + strings.ToLower(rand.Text()[:random])
}

// route handles a request; what it returns becomes the answer.
type route func(w http.ResponseWriter, r *http.Request) error

// serve makes a route that everybody may use, and what all routes have in
// common.
func (h *handler) serve(do route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := h.Now()
		// A deadline of the request before on this connection would still hold.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(callTime + writeTime))
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		var who access.Principal // written by h.who
		done := false            // written by noteDone
		ctx := context.WithValue(r.Context(), asker{}, &who)
		r = r.WithContext(context.WithValue(ctx, outcome{}, &done))
		err := do(w, r)
		if err != nil && done {
			err = doneAllTheSame(err)
		}
		if err != nil {
			h.fail(w, r, err)
		}
		h.log(r, who, err, h.Now().Sub(began))
	})
}

type (
	asker   struct{}
	outcome struct{}
)

// noteDone notes that the trio has committed what the request asks for.
func noteDone(ctx context.Context) {
	if done, ok := ctx.Value(outcome{}).(*bool); ok {
		*done = true
	}
}

// who says who asks, and notes it for the log.
func (h *handler) who(r *http.Request) (access.Principal, error) {
	who, err := h.gate.Who(r)
	if p, ok := r.Context().Value(asker{}).(*access.Principal); ok {
		*p = who
	}
	return who, err
}

// judge lets a request through if whoever asks has the right.
func (h *handler) judge(right access.Right, do route) route {
	return func(w http.ResponseWriter, r *http.Request) error {
		who, err := h.who(r)
		if err != nil {
			return err
		}
		if err := who.May(right); err != nil {
			return err
		}
		return do(w, r.WithContext(access.With(r.Context(), who)))
	}
}

// any makes a route that every replica answers.
func (h *handler) any(right access.Right, do route) http.Handler {
	return h.serve(h.judge(right, do))
}

// leader makes a route that only the leader answers, within limit; with a limit
// of 0 the answer streams for as long as the asker may have it.
func (h *handler) leader(right access.Right, limit time.Duration, do route) http.Handler {
	judged := h.judge(right, do)
	return h.serve(func(w http.ResponseWriter, r *http.Request) error {
		var deadline time.Time
		if limit > 0 {
			ctx, cancel := context.WithTimeout(r.Context(), limit)
			defer cancel()
			r, deadline = r.WithContext(ctx), time.Now().Add(limit+writeTime)
		}
		_ = http.NewResponseController(w).SetWriteDeadline(deadline)
		if s := h.b.Status(); s.Leader != s.ID && s.LeaderAddr != "" {
			return h.passOn(w, r, s)
		}
		if limit == 0 {
			ctx, stop := h.gate.Watch(r.Context(), r)
			defer stop()
			r = r.WithContext(ctx)
		}
		return judged(w, r)
	})
}

// lostLeader is about a request that was passed on and not answered.
func lostLeader(leader fleet.ReplicaID, method string, err error) *client.Problem {
	dial, ok := errors.AsType[*net.OpError](err)
	if method == http.MethodGet || ok && dial.Op == "dial" {
		return client.NewProblem(client.CodeNoLeader, "try again shortly", "the leader %s does not answer: %v", leader, err)
	}
	return client.NewProblem(client.CodeUnknown, "look before you repeat it: tender ps --all",
		"the leader %s did not answer (%v); the request may have been carried out", leader, err)
}

// passOn sends a request to the leader, or says where that is.
func (h *handler) passOn(w http.ResponseWriter, r *http.Request, s Status) error {
	if r.Header.Get(headerForwarded) != "" {
		return client.NewProblem(client.CodeNoLeader, "try again shortly", "the replicas do not agree on who leads")
	}
	if h.Forward == nil {
		// The leader judges what is shown: here, what was made a moment ago may
		// not be known yet. Who shows nothing is told nothing.
		if _, err := access.Show(r); err != nil && !h.Local {
			return err
		}
		return notLeader(s)
	}
	who, err := h.who(r)
	if err != nil {
		return err
	}
	target := &url.URL{Scheme: "https", Host: s.LeaderAddr}
	proxy := &httputil.ReverseProxy{
		Transport:     h.Forward,
		FlushInterval: -1, // logs are followed
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Header.Set(headerForwarded, string(s.ID))
			access.PassOn(p.Out, who)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			h.fail(w, r, lostLeader(s.Leader, r.Method, err))
		},
		ErrorLog: slog.NewLogLogger(h.Log.Handler(), slog.LevelDebug),
	}
	proxy.ServeHTTP(w, r)
	return nil
}
