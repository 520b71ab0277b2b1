package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tenderfleet/tender/controlplane/client"
)

// candidates is how many tasks are named where a name stands for several.
const candidates = 5

// byName calls do with a task's id. Where there is no such task, name may be what
// the ids of some begin with, such as the --name that 'tender run' was given: it
// stands for the only one of them, or the only one that has not ended.
func byName[T any](ctx context.Context, c *client.Client, name string, do func(id string) (T, error)) (T, error) {
	v, err := do(name)
	if !unknown(err) || name == "" {
		return v, err
	}
	l, listErr := c.Tasks(ctx, client.TaskFilter{All: true, Limit: 10_000})
	if listErr != nil {
		return v, listErr
	}
	found := slices.DeleteFunc(l.Tasks, func(t client.Task) bool { return !strings.HasPrefix(t.ID, name) })
	live := slices.DeleteFunc(slices.Clone(found), client.Task.Terminal)
	switch {
	case len(live) == 1:
		return do(live[0].ID)
	case len(found) == 1:
		return do(found[0].ID)
	case len(found) == 0:
		return v, err
	}
	if len(live) > 0 {
		found = live
	}
	var some []string
	for _, t := range found[:min(candidates, len(found))] {
		some = append(some, fmt.Sprintf("%s (%s)", t.ID, state(t)))
	}
	if len(found) > candidates {
		some = append(some, fmt.Sprintf("%d more", len(found)-candidates))
	}
	return v, hint("give the whole id, such as "+found[0].ID, "%q stands for several tasks: %s", name, strings.Join(some, ", "))
}
