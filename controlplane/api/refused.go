package api

import (
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
)

// Refused requests cost whoever sends them nothing: only so many are logged.
const (
	refusedPerSecond = 5
	refusedBurst     = 50
)

// log keeps what changed something, and what was refused to whom.
func (h *handler) log(r *http.Request, who access.Principal, err error, took time.Duration) {
	attrs := []any{
		"method", r.Method, "path", r.URL.Path, "by", who.String(), "remote", r.RemoteAddr,
		"refused", err != nil, "took", took,
	}
	if refusal, ok := errors.AsType[*access.Refusal](err); ok {
		if left, ok := h.noise.pass(h.Now()); ok {
			h.Log.WarnContext(r.Context(), "api request refused", append(attrs, "reason", refusal.Text, "not_logged", left)...)
		}
		return
	}
	level := slog.LevelDebug
	if r.Method != http.MethodGet {
		level = slog.LevelInfo
	}
	h.Log.Log(r.Context(), level, "api request", attrs...)
}

// quiet bounds how often something is said.
type quiet struct {
	mu     sync.Mutex
	at     time.Time // when tokens was right
	tokens float64
	left   int // not said since the last time
}

// pass reports whether it may be said now, and how often it was not since.
func (q *quiet) pass(now time.Time) (left int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.at.IsZero() {
		q.tokens = refusedBurst
	} else {
		q.tokens = min(refusedBurst, q.tokens+max(0, now.Sub(q.at).Seconds())*refusedPerSecond)
	}
	q.at = now
	if q.tokens < 1 {
		q.left++
		return 0, false
	}
	q.tokens--
	left, q.left = q.left, 0
	return left, true
}
