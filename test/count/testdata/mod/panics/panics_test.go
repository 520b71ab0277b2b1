package panics

import "testing"

func TestPanics(*testing.T) { panic("out of cheese") }
