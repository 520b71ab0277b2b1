package agent

import (
	"testing"
	"time"
)

func TestSeekWait(t *testing.T) {
	for _, tc := range []struct {
		first time.Duration
		try   int
		r     float64
		want  time.Duration
	}{
		{0, 0, 0.9, time.Minute},
		{0, 1, 0.9, 5 * time.Minute},
		{0, 2, 0.9, 15 * time.Minute},
		{0, 3, 0, 10 * time.Minute},
		{0, 99, 0.5, 20 * time.Minute},
		{time.Second, 1, 0.9, 5 * time.Second},
		{time.Second, 4, 0.999999, 29*time.Second + 999980*time.Microsecond},
	} {
		if got := seekWait(tc.first, tc.try, tc.r); got != tc.want {
			t.Errorf("seekWait(%v, %d, %v) = %v, want %v", tc.first, tc.try, tc.r, got, tc.want)
		}
	}
}
