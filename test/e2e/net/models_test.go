package net_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Each object has a history of its own, so that checks stay fast: the tasks of
// one role, one join token, the quota of one role. A call that failed so that
// nothing can have come of it is in no history, and what it did after all shows
// in later reads. One whose outcome is not known may take effect at any time
// until the end, or never, which is the same as after the last read.
type (
	in struct {
		what string // submit, stop, get, list; join, delete, look; set, clear, read
		arg  string // a task's name, a quota's value
	}
	out struct {
		unknown bool
		value   string // what was read, or how the call was refused
	}
)

// The values that a call gives besides those that it reads.
const (
	done   = "done"
	absent = "absent"
	usedUp = "used up"
)

var models = map[string]porcupine.Model{
	"tasks": {Init: func() any { return "" }, Step: stepTasks, DescribeOperation: describe},
	"token": {Init: func() any { return tokenUses }, Step: stepToken, DescribeOperation: describe},
	"quota": {Init: func() any { return "" }, Step: stepQuota, DescribeOperation: describe},
}

func describe(i, o any) string { return fmt.Sprintf("%v -> %v", i, o) }

// stepTasks: the state lists a role's tasks, "NAME+" or "NAME-" once it has
// been told to stop.
func stepTasks(state, i, o any) (bool, any) {
	s, call, got := state.(string), i.(in), o.(out)
	tasks := map[string]bool{}
	for f := range strings.FieldsSeq(s) {
		tasks[f[:len(f)-1]] = f[len(f)-1] == '+'
	}
	runs, there := tasks[call.arg]
	switch call.what {
	case "submit":
		tasks[call.arg] = true
		return !there, lineUp(tasks)
	case "stop": // by the id that a submission gave
		tasks[call.arg] = false
		return there && got.value != absent, lineUp(tasks)
	case "get":
		return there && got.value == fmt.Sprint(runs), s
	default:
		return got.value == s, s
	}
}

// lineUp is a set of tasks as a state, and as a list is read.
func lineUp(tasks map[string]bool) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(tasks)) {
		b.WriteString(name + map[bool]string{true: "+ ", false: "- "}[tasks[name]])
	}
	return b.String()
}

// tokenUses is how many machines each token admits.
const tokenUses = 3

// stepToken: the state is the number of uses left, or gone. A token that is
// used up may be forgotten.
func stepToken(state, i, o any) (bool, any) {
	const gone = -1
	uses, call, got := state.(int), i.(in), o.(out)
	switch call.what {
	case "join":
		switch {
		case got.unknown && uses <= 0:
			return true, uses
		case got.unknown || got.value == done:
			return uses > 0, uses - 1
		case got.value == usedUp:
			return uses == 0, uses
		default:
			return uses <= 0, uses
		}
	case "delete":
		if got.value == absent {
			return uses <= 0, gone
		}
		return got.unknown || uses >= 0, gone
	default:
		return got.value == fmt.Sprint(uses) || got.value == absent && uses <= 0, uses
	}
}

// stepQuota: the state is the limit, nothing when there is none.
func stepQuota(state, i, o any) (bool, any) {
	s, call, got := state.(string), i.(in), o.(out)
	switch call.what {
	case "set":
		return true, call.arg
	case "clear":
		return got.value != absent || s == "", ""
	default:
		return got.value == s, s
	}
}

// A check that finds nothing wrong must be able to.
func TestTheModelsNotice(t *testing.T) {
	t.Parallel()
	op := func(begin, end int64, what, arg, value string) porcupine.Operation {
		o := porcupine.Operation{Call: begin, Return: end, Input: in{what, arg}, Output: out{value: value}}
		if value == "?" {
			o.Output, o.Return = out{unknown: true}, int64(time.Hour)
		}
		return o
	}
	type history = []porcupine.Operation
	for _, c := range []struct {
		name, model string
		history     history
		right       bool
	}{
		{"tasks one after another", "tasks", history{op(0, 1, "submit", "a", done), op(2, 3, "list", "", "a+ "), op(4, 5, "stop", "a", done), op(6, 7, "get", "a", "false"), op(8, 9, "list", "", "a- ")}, true},
		{"a granted task is lost", "tasks", history{op(0, 1, "submit", "a", done), op(2, 3, "list", "", "")}, false},
		{"a stale read", "tasks", history{op(0, 1, "submit", "a", done), op(2, 3, "stop", "a", done), op(4, 5, "get", "a", "true")}, false},
		{"a read while it is stopped", "tasks", history{op(0, 1, "submit", "a", done), op(2, 6, "stop", "a", done), op(3, 5, "get", "a", "true")}, true},
		{"what was refused is there", "tasks", history{op(2, 3, "list", "", "a+ ")}, false},
		{"an unknown outcome shows later", "tasks", history{op(0, 0, "submit", "a", "?"), op(2, 3, "list", "", ""), op(4, 5, "list", "", "a+ ")}, true},
		{"an unknown outcome shows and is taken back", "tasks", history{op(0, 0, "submit", "a", "?"), op(2, 3, "list", "", "a+ "), op(4, 5, "list", "", "")}, false},
		{"a task is there twice", "tasks", history{op(0, 1, "submit", "a", done), op(2, 3, "list", "", "a+ a+ ")}, false},
		{"three uses", "token", history{op(0, 1, "join", "", done), op(0, 2, "join", "", done), op(0, 3, "join", "", done), op(4, 5, "join", "", usedUp), op(6, 7, "look", "", absent)}, true},
		{"four uses", "token", history{op(0, 1, "join", "", done), op(0, 2, "join", "", done), op(0, 3, "join", "", done), op(0, 4, "join", "", done)}, false},
		{"a use that is not counted", "token", history{op(0, 1, "join", "", done), op(2, 3, "look", "", "3")}, false},
		{"a deleted token admits", "token", history{op(0, 1, "delete", "", done), op(2, 3, "join", "", done)}, false},
		{"a token that is there is said not to be", "token", history{op(0, 1, "join", "", absent)}, false},
		{"unknown uses", "token", history{op(0, 0, "join", "", "?"), op(2, 3, "look", "", "2"), op(4, 4, "join", "", "?"), op(5, 6, "look", "", "2"), op(7, 8, "look", "", "1")}, true},
		{"a quota", "quota", history{op(0, 1, "set", "4", done), op(2, 3, "read", "", "4"), op(4, 5, "clear", "", done), op(6, 7, "read", "", "")}, true},
		{"a quota of before", "quota", history{op(0, 1, "set", "4", done), op(2, 3, "set", "5", done), op(4, 5, "read", "", "4")}, false},
	} {
		if got := porcupine.CheckOperations(models[c.model], c.history); got != c.right {
			t.Errorf("%s: right is %v, want %v", c.name, got, c.right)
		}
	}
}
