package agent

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/transport/wire"
)

// A Welcome is waited for as the link has shown to need.
func TestPatience(t *testing.T) {
	var p patience
	late := fmt.Errorf("receive: %w", os.ErrDeadlineExceeded)
	for i, tc := range []struct {
		took time.Duration
		err  error
		want time.Duration
	}{
		{10 * time.Millisecond, nil, 4 * time.Second},
		{4 * time.Second, late, 8 * time.Second},
		{8 * time.Second, late, 16 * time.Second},
		{16 * time.Second, late, 16 * time.Second},
		{2500 * time.Millisecond, nil, 10 * time.Second},
		{time.Second, errors.New("session closed"), 10 * time.Second},
		{time.Minute, nil, 16 * time.Second},
		{time.Millisecond, nil, 4 * time.Second},
	} {
		if p.learn(tc.took, tc.err); p.wait() != tc.want {
			t.Errorf("%d: after %v, %v it waits %v, want %v", i, tc.took, tc.err, p.wait(), tc.want)
		}
	}
}

// What counts is the time from the first Welcome, not from the dial; a session
// that moves to another replica goes on.
func TestASessionHasLasted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d rounds
		time.Sleep(time.Minute)
		if d.lasted() {
			t.Error("without a Welcome there was no session")
		}
		d.know("r1", wire.Welcome{})
		time.Sleep(steady - time.Second)
		d.know("r2", wire.Welcome{})
		if d.lasted() {
			t.Error("it is not steady yet")
		}
		time.Sleep(2 * time.Second)
		if !d.lasted() {
			t.Error("it has lasted, and moved in between")
		}
	})
}

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
