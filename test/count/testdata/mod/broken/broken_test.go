package broken

import "testing"

func TestNever(*testing.T) { undefined() }
