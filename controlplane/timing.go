package controlplane

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
)

// Timing holds Raft's time-outs before Patience multiplies them: how long a
// follower waits for its leader, a candidate for votes, and a leader for a
// majority before it steps down.
type Timing struct{ Heartbeat, Election, Lease time.Duration }

// The named timings. The leader of a trio on one network that dies is replaced
// in about half a second with TimingLAN, in about one with TimingDefault; over
// links between sites TimingWAN bears what those do.
var (
	TimingLAN     = Timing{250 * time.Millisecond, 250 * time.Millisecond, 125 * time.Millisecond}
	TimingDefault = Timing{registrar.DefaultHeartbeat, registrar.DefaultElection, registrar.DefaultLease}
	TimingWAN     = Timing{2 * time.Second, 2 * time.Second, time.Second}
)

var timings = map[string]Timing{"lan": TimingLAN, "default": TimingDefault, "wan": TimingWAN}

// TimingOf returns the timing of a name.
func TimingOf(name string) (Timing, error) {
	if t, ok := timings[name]; ok {
		return t, nil
	}
	names := make([]string, 0, len(timings))
	for n := range timings {
		names = append(names, n)
	}
	slices.Sort(names)
	return Timing{}, fmt.Errorf("no Raft timing %q; there are %s", name, strings.Join(names, ", "))
}

func (t Timing) orDefault() Timing {
	if t == (Timing{}) {
		return TimingDefault
	}
	return t
}
