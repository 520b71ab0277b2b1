package registrar

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// hclogTo gives Raft a logger that ends in ours. Below a warning Raft tells
// every step of every election: that is kept for debugging.
func hclogTo(log *slog.Logger, component string) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard})
	l.RegisterSink(&slogSink{log.With("component", component)})
	return l
}

type slogSink struct{ log *slog.Logger }

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
	attrs := make([]slog.Attr, 0, len(args)/2)
	for i := 0; i+1 < len(args); i += 2 {
		key := strings.ReplaceAll(fmt.Sprint(args[i]), "-", "_")
		attrs = append(attrs, slog.String(key, fmt.Sprint(args[i+1])))
	}
	s.log.LogAttrs(ctx, to, msg, attrs...)
}
