package fleet_test

import (
	"testing"

	"github.com/tenderfleet/tender/transport/fleet"
)

func TestRoleDescends(t *testing.T) {
	for _, tt := range []struct {
		role, of fleet.Role
		want     bool
	}{
		{"a", "a", true},
		{"a/b", "a", true},
		{"a/b/c", "a", true},
		{"a/b/c", "a/b", true},
		{"a", "a/b", false},
		{"ab", "a", false},
		{"a/bc", "a/b", false},
		{"b", "a", false},
		{"*", "*", true},
		{"a", "*", false},
		{"*", "a", false},
		{"a", "", false},
	} {
		if got := tt.role.Descends(tt.of); got != tt.want {
			t.Errorf("%q descends from %q: %v", tt.role, tt.of, got)
		}
	}
}
