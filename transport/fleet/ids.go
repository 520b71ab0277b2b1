package fleet

import (
	"fmt"
	"strings"
)

// Distinct strings have distinct types, so that the compiler finds a task id
// where an agent id belongs.
type (
	AgentID     string
	ReplicaID   string
	FrameworkID string
	TaskID      string
	OfferID     string
	// Role is a share holder, a path such as "research/vision"; "*" is the
	// default role.
	Role string
	// Site is a label: where an agent stands.
	Site string
	// UpdateID identifies one status update across resends.
	UpdateID string
)

// DefaultRole is the role of work that names none (Mesos's "*").
const DefaultRole Role = "*"

// MaxIDLen bounds every id and name. 63 is the limit of a DNS label and stays
// under containerd's 76 for container ids.
const MaxIDLen = 63

// CheckID reports whether s can be an id or a name: 1 to 63 of lower-case
// letters, digits, '-', '_' and '.', beginning with a letter or digit. Ids
// become file names, cgroup names and URI paths, so nothing else may pass.
func CheckID(kind, s string) error {
	if s == "" {
		return fmt.Errorf("%s is empty", kind)
	}
	if len(s) > MaxIDLen {
		return fmt.Errorf("%s %.20q... is %d characters long, the limit is %d", kind, s, len(s), MaxIDLen)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("-_.", rune(c))) {
			return fmt.Errorf("%s %q: use lower-case letters, digits, '-', '_' and '.', beginning with a letter or digit", kind, s)
		}
	}
	return nil
}

// CheckRole reports whether r is "*" or a path of ids joined by "/".
func CheckRole(r Role) error {
	if r == DefaultRole {
		return nil
	}
	for part := range strings.SplitSeq(string(r), "/") {
		if err := CheckID("role", part); err != nil {
			return err
		}
	}
	if len(r) > 4*MaxIDLen {
		return fmt.Errorf("role %.20q... is longer than %d characters", r, 4*MaxIDLen)
	}
	return nil
}
