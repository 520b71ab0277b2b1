package bad

import "testing"

func TestFails(t *testing.T) { t.Error("two and two are five") }

func TestTable(t *testing.T) {
	t.Run("fine", func(*testing.T) {})
	t.Run("wrong", func(t *testing.T) { t.Error("wrong row") })
}
