package controlplane

import (
	"strings"
	"testing"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// The holder of the root key signs for a joiner only if the leader asks, and
// only who has been admitted and has no authority yet.
func TestForWhomTheRootKeyIsUsed(t *testing.T) {
	admitted := &state.Replica{ID: "r4"}
	for name, tt := range map[string]struct {
		from, leader fleet.ReplicaID
		rec          *state.Replica
		member       bool
		want         string
	}{
		"the leader, for who joins":      {"r2", "r2", admitted, false, ""},
		"another replica":                {"r3", "r2", admitted, false, "r3 does not lead"},
		"without a leader":               {"", "", admitted, false, "does not lead"},
		"for who was not admitted":       {"r2", "r2", nil, false, "no replica r4 has been admitted"},
		"for a member":                   {"r2", "r2", admitted, true, "has joined already"},
		"for who has an authority":       {"r2", "r2", &state.Replica{ID: "r4", Intermediate: []byte("i")}, false, "has joined already"},
		"for itself, without leadership": {"r4", "r2", admitted, true, "r4 does not lead"},
	} {
		err := mayJoin(tt.from, tt.leader, "r4", tt.rec, tt.member)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhoHeldTheRootKey(t *testing.T) {
	for want, e := range map[string]*noHolderError{
		"no replica that answers holds the root key P": {},
		"no replica that answers holds the root key P; r1 held it last and does not answer: start tenderd there; r2 does not answer either":    {last: []fleet.ReplicaID{"r1"}, silent: []fleet.ReplicaID{"r1", "r2"}},
		"no replica that answers holds the root key P; r1 held it last, and it lies there no more; r2 held it last, and it lies there no more": {last: []fleet.ReplicaID{"r1", "r2"}},
		"no replica that answers holds the root key P; replica r1: wrong passphrase":                                                           {wrong: []string{"replica r1: wrong passphrase"}},
	} {
		e.pin = "P"
		if got := e.Error(); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}
