package registrar

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// hclogTo gives Raft a logger that ends in ours. Below a warning Raft tells
// every step of every election: that is kept for debugging.
func hclogTo(log *slog.Logger, component string) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard})
	l.RegisterSink(&slogSink{log: log.With("component", component), said: map[string]time.Time{}})
	return l
}

// repeatAfter is how often one message about one peer is passed on: while a
// replica is down Raft says so several times a second.
const repeatAfter = 30 * time.Second

// maxSaid bounds what the sink remembers.
const maxSaid = 256

type slogSink struct {
	log *slog.Logger

	mu   sync.Mutex
	said map[string]time.Time
}

// Accept implements hclog.SinkAdapter.
func (s *slogSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch {
	case level >= hclog.Error:
		to = slog.LevelError
	case level == hclog.Warn:
		to = slog.LevelWarn
	}
	ctx := context.Background()
	if level <= hclog.Debug || !s.log.Enabled(ctx, to) {
		return
	}
	about := msg
	attrs := make([]slog.Attr, 0, len(args)/2)
	for i := 0; i+1 < len(args); i += 2 {
		key, value := strings.ReplaceAll(fmt.Sprint(args[i]), "-", "_"), fmt.Sprint(args[i+1])
		attrs = append(attrs, slog.String(strings.ReplaceAll(key, " ", "_"), value))
		switch key {
		case "peer", "target", "server_id", "from":
			about += " " + value
		}
	}
	if to == slog.LevelDebug || s.first(about) {
		s.log.LogAttrs(ctx, to, msg, attrs...)
	}
}

// first reports whether a message has not been passed on lately.
func (s *slogSink) first(about string) bool {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.said[about]; ok && now.Sub(at) < repeatAfter {
		return false
	}
	if len(s.said) >= maxSaid {
		clear(s.said)
	}
	s.said[about] = now
	return true
}
