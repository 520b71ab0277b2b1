package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// maxReasons bounds the reasons in one line; `tender why` has them all.
const maxReasons = 3

// explained is a task and, while it waits, why.
type explained struct {
	task     *state.Task
	waiting  *client.Waiting
	refusals []allocator.Refusal
}

// explain reads a task and asks the leader why it waits, if it does.
func (h *handler) explain(ctx context.Context, id string) (explained, error) {
	t, err := h.find(ctx, id)
	if err != nil || !t.Waiting() {
		return explained{task: t}, err
	}
	return h.whyWaits(ctx, t)
}

// find reads a task that the asker may know. Records are never changed in
// place, so it may be kept.
func (h *handler) find(ctx context.Context, id string) (t *state.Task, err error) {
	err = h.b.Read(ctx, func(st *state.State) { t = st.Tasks[fleet.TaskID(id)] })
	switch {
	case err != nil:
		return nil, err
	case t == nil:
		return nil, notFound("task", id, "tender ps --all")
	}
	return t, access.From(ctx).CheckRole(t.Role)
}

func (h *handler) whyWaits(ctx context.Context, t *state.Task) (explained, error) {
	x := explained{task: t}
	var refusals []allocator.Refusal
	var never bool
	now := h.Now()
	err := h.b.Ask(ctx, func(l *leader.Leader) { refusals, never = l.Why(now, t.ID) })
	if err != nil {
		return x, err
	}
	agents := map[fleet.AgentID]bool{}
	err = h.b.Read(ctx, func(st *state.State) {
		for id, rec := range st.Agents {
			if !rec.Revoked {
				agents[id] = true
			}
		}
	})
	if err != nil {
		return x, err
	}
	for _, r := range refusals {
		if agents[r.Agent] { // the others are no part of the fleet any more
			x.refusals = append(x.refusals, r)
		}
	}
	x.waiting = summarize(x.refusals, never, len(agents))
	return x, nil
}

// summarize says in one line what refusals say, the commonest reason first.
func summarize(refusals []allocator.Refusal, never bool, agents int) *client.Waiting {
	switch {
	case agents == 0:
		return &client.Waiting{Reason: "no agent has joined the fleet yet"}
	case len(refusals) < agents:
		return &client.Waiting{Reason: "an agent has room; its offer is on its way"}
	}
	count := map[string]int{}
	for _, r := range refusals {
		count[r.Reason]++
	}
	reasons := slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b))
	})
	var parts []string
	left := len(refusals)
	for _, r := range reasons[:min(maxReasons, len(reasons))] {
		parts = append(parts, plural(count[r], "agent")+": "+r)
		left -= count[r]
	}
	if left > 0 {
		parts = append(parts, "and "+plural(left, "more agent"))
	}
	return &client.Waiting{Reason: strings.Join(parts, "; "), Never: never}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
