package containerd

import (
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/tenderfleet/tender/transport/fleet"
)

// containerName is the name of the task's container: the task's own where
// containerd allows it (no two separators in a row, none at the end).
func containerName(id fleet.TaskID) string {
	fields := strings.FieldsFunc(string(id), isSeparator)
	separators := len(id) - len(strings.Join(fields, ""))
	if len(fields) == separators+1 && !strings.HasPrefix(string(id), hashedPrefix) {
		return string(id)
	}
	return hashed(string(id))
}

// secondName is the name of the task's container where containerd holds on to
// the first: what a start that was cut short has left bars its name until
// containerd is restarted.
func secondName(id fleet.TaskID) string { return hashed("second\x00" + string(id)) }

// hashedPrefix begins the names that are not task ids, so that none of them
// can be one.
const hashedPrefix = "x-"

func hashed(text string) string { return hashedPrefix + digest.FromString(text).Encoded()[:40] }

func isSeparator(r rune) bool { return r == '-' || r == '_' || r == '.' }

// seconds holds the tasks whose containers have their second names. An agent's
// next process learns of them by List.
type seconds struct {
	mu  sync.Mutex
	ids map[fleet.TaskID]bool
}

func (s *seconds) set(id fleet.TaskID, second bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !second {
		delete(s.ids, id)
		return
	}
	if s.ids == nil {
		s.ids = map[fleet.TaskID]bool{}
	}
	s.ids[id] = true
}

// name is that of the task's container.
func (x *Executor) name(id fleet.TaskID) string {
	x.seconds.mu.Lock()
	defer x.seconds.mu.Unlock()
	if x.seconds.ids[id] {
		return secondName(id)
	}
	return containerName(id)
}
