package executor_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/executor/executortest"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestMemoryPassesTheSuite(t *testing.T) {
	executortest.Run(t, func(t *testing.T) (executor.Executor, executortest.Fixture) {
		m := executor.NewMemory(func(ctx context.Context, task executor.Task) (executor.Run, error) {
			if task.Spec.Image != "busybox" {
				return executor.Run{}, fmt.Errorf("image %s: %w", task.Spec.Image, executor.ErrInvalid)
			}
			if task.Spec.Command[0] == "nonsense" {
				return executor.Run{}, executor.ErrInvalid
			}
			return executor.Commands(ctx, task)
		})
		return m, executortest.Fixture{
			Image: "busybox", Unknown: "unknown", Foreign: "foreign", Mem: 16,
			Exit:     func(code int) []string { return []string{"exit", strconv.Itoa(code)} },
			Signal:   func(sig int) []string { return []string{"signal", strconv.Itoa(sig)} },
			Hog:      []string{"oom"},
			Polite:   []string{"polite"},
			Stubborn: []string{"stubborn"},
			Missing:  []string{"nonsense"},
			ExecExit: func(code int) []string { return []string{"exit", strconv.Itoa(code)} },
			ExecEnv:  []string{"exit", "CODE"},
			ExecLoud: []string{"exit", "0"},
			ExecLong: []string{"sleep", "1h"},
			Serve:    func(port int) []string { return []string{"serve", strconv.Itoa(port)} },
			Reopen:   func(*testing.T) executor.Executor { return m },
			Outage: func(*testing.T) func() {
				m.SetUnavailable(true)
				return func() { m.SetUnavailable(false) }
			},
			Lose: func(_ *testing.T, id fleet.TaskID) { m.Lose(id) },
		}
	})
}

func TestMemoryKeepsVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := executor.NewMemory(nil)
		began := time.Now()
		for id, command := range map[fleet.TaskID][]string{"sleeper": {"sleep", "1h"}, "stubborn": {"stubborn"}} {
			err := m.Start(t.Context(), executor.Task{ID: id, Spec: fleet.TaskSpec{Command: command}})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Stop(t.Context(), "stubborn", time.Minute); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			id    fleet.TaskID
			want  string
			after time.Duration
		}{
			{"stubborn", "ended by signal 9 (killed)", time.Minute},
			{"sleeper", "exited with code 0", time.Hour},
		} {
			e, err := m.Wait(t.Context(), c.id)
			if err != nil {
				t.Fatal(err)
			}
			if e.String() != c.want || !e.Time.Equal(began.Add(c.after)) {
				t.Errorf("%s %v after %v, want: %s after %v", c.id, e, e.Time.Sub(began), c.want, c.after)
			}
		}
	})
}
