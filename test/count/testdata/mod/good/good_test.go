package good

import "testing"

func TestOne(*testing.T) {}

func TestSkipped(t *testing.T) { t.Skip("nothing to test with") }

func TestTable(t *testing.T) {
	for _, name := range []string{"a", "b", "c/d"} {
		t.Run(name, func(*testing.T) {})
	}
}
