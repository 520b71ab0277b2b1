package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestScript(t *testing.T) {
	prefix := fmt.Sprintf("s%d", os.Getpid())
	do := func(ctx context.Context, word string, nodes ...string) (string, error) {
		var out strings.Builder
		args := append([]string{word, "-prefix", prefix, "-replicas", "2", "-sites", "1,1"}, nodes...)
		err := run(ctx, args, &out)
		return out.String(), err
	}
	t.Cleanup(func() {
		if _, err := do(context.Background(), "down"); err != nil {
			t.Error(err)
		}
	})
	for _, step := range [][]string{
		{"up"}, {"check"}, {"part", "c1", "c2"}, {"heal"}, {"cut", "r2"}, {"restore", "r2"}, {"rebind", "r1"},
	} {
		if _, err := do(t.Context(), step[0], step[1:]...); err != nil {
			t.Fatalf("%v: %v", step, err)
		}
	}
	names, err := do(t.Context(), "names")
	if err != nil {
		t.Fatal(err)
	}
	want := "c1 203.0.113.11\nc2 203.0.113.12\nr1 203.0.113.101 1\nr2 203.0.113.102 2\na1 198.18.1.11 1\na2 198.18.2.12 2\n"
	if names != want {
		t.Errorf("names:\n%swant:\n%s", names, want)
	}
	for _, step := range [][]string{{"cut"}, {"part", "c1"}, {"exec", "a1"}, {"exec", "a7", "true"}, {"dance"}} {
		if _, err := do(t.Context(), step[0], step[1:]...); err == nil {
			t.Errorf("%v: no error", step)
		}
	}
	if _, err := do(t.Context(), "down"); err != nil {
		t.Fatal(err)
	}
	if _, err := do(t.Context(), "names"); err == nil {
		t.Error("names of a bed that is down")
	}
}
