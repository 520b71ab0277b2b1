// Package leader is a core that is none.
package leader

import (
	"context"
	"log/slog"
	clock "time"

	_ "example.org/m1/pkg"
)

// Step reads the clock, waits and starts a goroutine.
func Step(ctx context.Context) {
	go slog.Info("step")
	<-clock.After(clock.Second)
	now := clock.Now
	_ = now()
	_ = clock.Time{}
}
