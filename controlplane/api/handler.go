package api

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
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
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", h.any(h.health))
	mux.Handle("GET /v1/version", h.any(h.version))
	mux.Handle("GET /v1/replicas", h.any(h.replicas))
	mux.Handle("GET /v1/tasks", h.leader(callTime, h.listTasks))
	mux.Handle("POST /v1/tasks", h.leader(callTime, h.submit))
	mux.Handle("GET /v1/tasks/{id}", h.leader(maxWait+callTime, h.getTask))
	mux.Handle("POST /v1/tasks/{id}/stop", h.leader(callTime, h.stopTask))
	mux.Handle("GET /v1/tasks/{id}/why", h.leader(callTime, h.why))
	mux.Handle("GET /v1/tasks/{id}/logs", h.leader(0, h.logs))
	mux.Handle("GET /v1/agents", h.leader(callTime, h.listAgents))
	mux.Handle("GET /v1/agents/{id}", h.leader(callTime, h.getAgent))
	mux.Handle("POST /v1/agents/{id}/revoke", h.leader(callTime, h.revokeAgent))
	mux.Handle("GET /v1/offers", h.leader(callTime, h.listOffers))
	mux.Handle("GET /v1/tokens", h.leader(callTime, h.listTokens))
	mux.Handle("POST /v1/tokens", h.leader(callTime, h.createToken))
	mux.Handle("DELETE /v1/tokens/{id}", h.leader(callTime, h.deleteToken))
	mux.Handle("/", h.any(func(_ http.ResponseWriter, r *http.Request) error {
		return client.NewProblem(client.CodeNotFound, "see the list of routes in the manual", "there is no %s %s in this API", r.Method, r.URL.Path)
	}))
	// A browser with an operator's certificate must not be made to act by
	// somebody else's page.
	return http.NewCrossOriginProtection().Handler(mux)
}

// newID adds 40 bits of chance, enough for the tasks that one fleet remembers.
func newID(prefix string) string {
	const random = 8
	prefix = prefix[:min(len(prefix), fleet.MaxIDLen-random-1)]
	return prefix + "-" + strings.ToLower(rand.Text()[:random])
}

// route handles a request; what it returns becomes the answer.
type route func(w http.ResponseWriter, r *http.Request) error

// any makes a route that every replica answers.
func (h *handler) any(do route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := h.Now()
		// A deadline of the request before on this connection would still hold.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(callTime + writeTime))
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		who, err := h.authorize(r)
		if err == nil {
			err = do(w, r)
		}
		level := slog.LevelDebug
		if r.Method != http.MethodGet {
			level = slog.LevelInfo // what changed something is kept
		}
		if err != nil {
			h.fail(w, r, err)
		}
		h.Log.Log(r.Context(), level, "api request", "method", r.Method, "path", r.URL.Path, "by", who, "refused", err != nil, "took", h.Now().Sub(began))
	})
}

// leader makes a route that only the leader answers, within limit unless that
// is 0.
func (h *handler) leader(limit time.Duration, do route) http.Handler {
	return h.any(func(w http.ResponseWriter, r *http.Request) error {
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
		return do(w, r)
	})
}

// authorize names who asks.
func (h *handler) authorize(r *http.Request) (string, error) {
	if h.Local {
		return "local", nil
	}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", client.NewProblem(client.CodeNoIdentity, "log in with: tender login", "this request shows no certificate")
	}
	leaf := r.TLS.VerifiedChains[0][0]
	id, err := pki.IdentityOf(leaf)
	if err != nil {
		return "", client.NewProblem(client.CodeNoIdentity, "log in with: tender login", "%v", err)
	}
	// Followers pass on what came over their own socket.
	if id.Kind != pki.KindOperator && id.Kind != pki.KindReplica {
		return id.Short(), client.NewProblem(client.CodeForbidden, "log in with: tender login", "%s may not use the API; an operator may", id.Short())
	}
	if h.Allow != nil {
		if err := h.Allow(id, leaf, r.TLS.NegotiatedProtocol); err != nil {
			return id.Short(), client.NewProblem(client.CodeForbidden, "log in again with: tender login", "%v", err)
		}
	}
	return id.Short(), nil
}

// passOn sends a request to the leader, or says where that is.
func (h *handler) passOn(w http.ResponseWriter, r *http.Request, s Status) error {
	if r.Header.Get(headerForwarded) != "" {
		return client.NewProblem(client.CodeNoLeader, "try again shortly", "the replicas do not agree on who leads")
	}
	if h.Forward == nil {
		return notLeader(s)
	}
	target := &url.URL{Scheme: "https", Host: s.LeaderAddr}
	proxy := &httputil.ReverseProxy{
		Transport:     h.Forward,
		FlushInterval: -1, // logs are followed
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Header.Set(headerForwarded, string(s.ID))
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			h.fail(w, r, client.NewProblem(client.CodeNoLeader, "try again shortly", "the leader %s does not answer: %v", s.Leader, err))
		},
		ErrorLog: slog.NewLogLogger(h.Log.Handler(), slog.LevelDebug),
	}
	proxy.ServeHTTP(w, r)
	return nil
}
