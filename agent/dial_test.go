package agent

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestWhoFindsAReplicaSilentDoesNotWait(t *testing.T) {
	closed := errors.New("session closed by the peer")
	for _, tc := range []struct {
		err    error
		spread time.Duration
		r      float64
		want   time.Duration
	}{
		{closed, 10 * time.Second, 0.5, 5 * time.Second},
		{closed, 0, 0.5, 100 * time.Millisecond},
		{fmt.Errorf("send: %w", errSilent), 10 * time.Second, 0.5, 100 * time.Millisecond},
		{closed, 10 * time.Second, 0, 0},
	} {
		if got := again(tc.err, tc.spread, tc.r); got != tc.want {
			t.Errorf("after %v, spread over %v: %v, want %v", tc.err, tc.spread, got, tc.want)
		}
	}
}
