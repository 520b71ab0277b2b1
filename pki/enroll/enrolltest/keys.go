package enrolltest

import (
	"context"
	"slices"
	"sync"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
)

// Keys is a healer in memory: what each identity's keys are, by their pins. Its
// fields are set before use and read when nobody calls.
type Keys struct {
	mu sync.Mutex
	// Held are the current key and perhaps the next one, Past those before.
	Held, Past map[pki.Identity][]string
	Revoked    map[pki.Identity]bool
	// Leader, when not nil, is what a replica that does not lead says.
	Leader error
	// Asked counts the calls that would be proposals.
	Asked int
}

var _ enroll.Healer = (*Keys)(nil)

// Standing implements enroll.Healer.
func (k *Keys) Standing(_ context.Context, id pki.Identity, pin string) (enroll.Standing, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.Leader != nil:
		return enroll.KeyForeign, k.Leader
	case slices.Contains(k.Held[id], pin):
		return enroll.KeyHeld, nil
	case slices.Contains(k.Past[id], pin):
		return enroll.KeyPast, nil
	}
	return enroll.KeyForeign, nil
}

// Rekey implements enroll.Healer.
func (k *Keys) Rekey(_ context.Context, id pki.Identity, r enroll.Rekeying) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Asked++
	held := k.Held[id]
	switch at := slices.Index(held, r.Key); {
	case k.Revoked[id]:
		return enroll.ErrRevoked
	case slices.Contains(k.Past[id], r.Key):
		return enroll.ErrCloned
	case at < 0:
		return enroll.ErrStranger
	default:
		k.Past[id] = append(k.Past[id], held[:at]...)
		k.Held[id] = []string{r.Key, r.Next}
	}
	return nil
}
