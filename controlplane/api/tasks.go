package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

const (
	defaultList = 1000
	maxList     = state.MaxEnded + 100_000

	// lookEvery is how often a waiting request looks again by itself: always
	// without Options.Changed, else for what changes with no commit, such as
	// why a task waits.
	lookEvery = 250 * time.Millisecond
	softEvery = time.Second
	// calm is the least time between two looks, however busy the fleet is.
	calm = 100 * time.Millisecond
)

// propose commits one command, in the name of who asks, and folds its refusal
// into the error.
func (h *handler) propose(ctx context.Context, c state.Command) (state.Result, error) {
	c.Time, c.By = h.Now(), access.From(ctx).String()
	results, err := h.b.Propose(ctx, c)
	if err != nil {
		return state.Result{}, err
	}
	if err := results[0].Err(); err != nil {
		return results[0], err
	}
	noteDone(ctx)
	return results[0], nil
}

func (h *handler) listTasks(w http.ResponseWriter, r *http.Request) error {
	p := readParams(r, "all", "role", "agent", "limit")
	all, limit := p.boolean("all", false), p.number("limit", defaultList, 1, maxList)
	role, agent := fleet.Role(p.text("role")), fleet.AgentID(p.text("agent"))
	if p.err != nil {
		return p.err
	}
	who := access.From(r.Context())
	if role != "" {
		if err := who.CheckRole(role); err != nil {
			return err
		}
	}
	var tasks []*state.Task
	err := h.b.Read(r.Context(), func(st *state.State) {
		for _, t := range st.Tasks {
			if (all || !t.State.Terminal()) && (role == "" || t.Role == role) && who.MayUse(t.Role) && (agent == "" || t.Agent == agent) {
				tasks = append(tasks, t)
			}
		}
	})
	if err != nil {
		return err
	}
	slices.SortFunc(tasks, func(a, b *state.Task) int {
		return cmp.Or(b.Submitted.Compare(a.Submitted), cmp.Compare(a.ID, b.ID))
	})
	list := client.TaskList{Tasks: []client.Task{}, Omitted: max(0, len(tasks)-limit)}
	for _, t := range tasks[:min(limit, len(tasks))] {
		list.Tasks = append(list.Tasks, taskDoc(t, nil, false))
	}
	return answer(w, http.StatusOK, list)
}

// getTask answers at once, or when the revision is not the one that the asker
// has any more.
func (h *handler) getTask(w http.ResponseWriter, r *http.Request) error {
	p := readParams(r, "after", "wait")
	wait, after := p.duration("wait", maxWait), p.text("after")
	if p.err != nil {
		return p.err
	}
	if after == "" {
		wait = 0
	}
	end, left := h.patience(wait)
	defer left()
	var why explained
	var asked time.Time
	for {
		changed := h.changed() // before the look, so that no change is missed
		t, err := h.find(r.Context(), r.PathValue("id"))
		if err != nil {
			return err
		}
		// Why a task waits costs a look at every agent: not at each change.
		if t.Waiting() && time.Since(asked) >= softEvery {
			if why, err = h.whyWaits(r.Context(), t); err != nil {
				return err
			}
			asked = time.Now()
		}
		if !t.Waiting() {
			why = explained{}
		}
		doc := taskDoc(t, why.waiting, true)
		if doc.Revision != after || wait == 0 || t.State.Terminal() || !h.pause(r.Context(), changed, end, t.Waiting()) {
			return answer(w, http.StatusOK, doc)
		}
	}
}

// patience starts the time that a request may wait for a change; left must be
// called when it waits no more. Where too many wait there is none: the asker
// comes back, and only sees changes later.
func (h *handler) patience(wait time.Duration) (end <-chan time.Time, left func()) {
	if wait > 0 {
		select {
		case h.waiting <- struct{}{}:
			t := time.NewTimer(wait)
			return t.C, func() {
				t.Stop()
				<-h.waiting
			}
		default:
		}
	}
	t := time.NewTimer(0)
	return t.C, func() { t.Stop() }
}

func (h *handler) changed() <-chan struct{} {
	if h.Changed == nil {
		return nil
	}
	return h.Changed()
}

// pause waits until it is worth looking again, and reports whether it is.
func (h *handler) pause(ctx context.Context, changed <-chan struct{}, end <-chan time.Time, soft bool) bool {
	var again <-chan time.Time
	if changed == nil || soft {
		every := lookEvery
		if changed != nil {
			every = softEvery
		}
		t := time.NewTimer(every)
		defer t.Stop()
		again = t.C
	}
	least := time.NewTimer(calm)
	defer least.Stop()
	select {
	case <-changed:
	case <-again:
	case <-end:
		return false
	case <-ctx.Done():
		return false
	}
	select {
	case <-least.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (h *handler) stopTask(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.Stop](w, r, true)
	if err != nil {
		return err
	}
	x, err := h.explain(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	grace := cmp.Or(x.task.Spec.KillGrace, fleet.DefaultKillGrace)
	if in.Grace != nil {
		grace = time.Duration(*in.Grace)
	}
	if grace < 0 || grace > 24*time.Hour {
		return badRequest("grace %v: write 0s to 24h", grace)
	}
	if _, err := h.propose(r.Context(), state.Command{Kill: &state.Kill{ID: x.task.ID, Grace: grace}}); err != nil {
		return err
	}
	return h.answerTask(w, r, http.StatusOK, x.task.ID)
}

// answerTask answers with a task as it is now, after what was asked has been
// committed. Where the replica has lost the lead meanwhile, its own copy of the
// state has that much: who asked must learn the id, and not ask again.
func (h *handler) answerTask(w http.ResponseWriter, r *http.Request, status int, id fleet.TaskID) error {
	x, err := h.explain(r.Context(), string(id))
	if err != nil {
		h.b.Stale(func(st *state.State) { x = explained{task: st.Tasks[id]} })
	}
	if x.task == nil {
		return err
	}
	return answer(w, status, taskDoc(x.task, x.waiting, true))
}

func (h *handler) why(w http.ResponseWriter, r *http.Request) error {
	x, err := h.explain(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	t := taskDoc(x.task, x.waiting, false)
	doc := client.Why{Task: t.ID, State: t.State, Message: t.Message, UnreachableSince: t.UnreachableSince, Waiting: x.waiting, Agents: []client.Refusal{}}
	if x.waiting != nil {
		doc.Message = ""
	}
	for _, f := range x.refusals {
		doc.Agents = append(doc.Agents, client.Refusal{Agent: string(f.Agent), Reason: f.Reason})
	}
	return answer(w, http.StatusOK, doc)
}
