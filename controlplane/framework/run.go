package framework

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// RunID is the framework behind `tender run`.
const RunID fleet.FrameworkID = "run"

// Event is something the run framework hears of.
type Event interface{ event() }

type (
	// Offers are leases that the leader made.
	Offers struct{ Offers []fleet.Offer }
	// Committed are commands that the trio agreed on, already applied to the
	// state that Look reads.
	Committed struct{ Commands []state.Command }
	// Updated is a status that the leader sent.
	Updated struct{ Status fleet.Status }
)

func (Offers) event()    {}
func (Updated) event()   {}
func (Committed) event() {}

// Run is the one-shot framework: it places each submitted task once, oldest
// first, and is done with it. A task that has failed is not placed again; its
// agent may start it again, and a replacement is a task of its own.
type Run struct {
	look func(fleet.TaskID) *state.Task
	// waiting holds the groups of equal tasks by key; order lists the keys of
	// groups by their oldest task.
	waiting map[string]*group
	of      map[fleet.TaskID]string
	changed map[fleet.Role]bool
}

// group is a set of waiting tasks that need the same, oldest first.
type group struct {
	key      string
	role     fleet.Role
	need     fleet.Need
	priority int
	tasks    []fleet.TaskID
}

// NewRun builds the framework from the replicated state. look reads one task
// of the leader's current state.
func NewRun(st *state.State, look func(fleet.TaskID) *state.Task) *Run {
	r := &Run{
		look: look, waiting: map[string]*group{}, of: map[fleet.TaskID]string{},
		changed: map[fleet.Role]bool{},
	}
	var tasks []*state.Task
	for _, t := range st.Tasks {
		if t.Framework == RunID && t.Waiting() {
			tasks = append(tasks, t)
		}
	}
	slices.SortFunc(tasks, func(a, b *state.Task) int {
		return cmp.Or(a.Submitted.Compare(b.Submitted), cmp.Compare(a.ID, b.ID))
	})
	for _, t := range tasks {
		r.add(t)
	}
	return r
}

// Start returns the subscription and the demands of what already waits.
func (r *Run) Start() []leader.Event {
	return append([]leader.Event{leader.Subscribe{Framework: RunID}}, r.demands()...)
}

// Step takes one event and returns calls for the leader.
func (r *Run) Step(ev Event) []leader.Event {
	switch ev := ev.(type) {
	case Offers:
		return r.offered(ev.Offers)
	case Committed:
		for _, c := range ev.Commands {
			r.committed(c)
		}
	case Updated:
		// An offer that ended before the accept arrived: the task waits on.
		id := ev.Status.Task
		if t := r.look(id); ev.Status.State == fleet.TaskDropped && t != nil && t.Waiting() {
			r.add(t)
		}
	}
	return r.demands()
}

func (r *Run) committed(c state.Command) {
	switch {
	case c.Submit != nil && c.Submit.Framework == RunID:
		if t := r.look(c.Submit.ID); t != nil && t.Waiting() {
			r.add(t)
		}
	case c.Replace != nil:
		if old := r.look(c.Replace.Task); old != nil && old.ReplacedBy != "" {
			if t := r.look(old.ReplacedBy); t != nil && t.Waiting() && t.Framework == RunID {
				r.add(t)
			}
		}
	case c.Kill != nil:
		if t := r.look(c.Kill.ID); t == nil || !t.Waiting() {
			r.drop(c.Kill.ID)
		}
	case c.Launch != nil && c.Launch.Framework == RunID:
		t := r.look(c.Launch.ID)
		switch {
		case t == nil || !t.Waiting():
			r.drop(c.Launch.ID)
		case r.of[c.Launch.ID] == "":
			r.add(t) // the launch was refused: it still waits
		}
	}
}

func (r *Run) add(t *state.Task) {
	if r.of[t.ID] != "" {
		return
	}
	// The most urgent group has the lowest key.
	key := fmt.Sprintf("%s %04d %+v", t.Role, fleet.MaxPriority-t.Standing.Priority, t.Need)
	g := r.waiting[key]
	if g == nil {
		g = &group{key: key, role: t.Role, need: t.Need, priority: t.Standing.Priority}
		r.waiting[key] = g
	}
	g.tasks = append(g.tasks, t.ID)
	r.of[t.ID] = key
	r.changed[t.Role] = true
}

func (r *Run) drop(id fleet.TaskID) {
	g := r.waiting[r.of[id]]
	if g == nil {
		return
	}
	delete(r.of, id)
	if g.tasks[0] == id {
		g.tasks = g.tasks[1:]
	} else if i := slices.Index(g.tasks, id); i >= 0 {
		g.tasks = slices.Delete(g.tasks, i, i+1)
	}
	if len(g.tasks) == 0 {
		delete(r.waiting, g.key)
	}
	r.changed[g.role] = true
}

// demands restates what the roles that changed wait for.
func (r *Run) demands() []leader.Event {
	if len(r.changed) == 0 {
		return nil
	}
	byRole := map[fleet.Role][]fleet.Demand{}
	for _, k := range state.SortedKeys(r.waiting) {
		if g := r.waiting[k]; r.changed[g.role] {
			byRole[g.role] = append(byRole[g.role], fleet.Demand{Name: k, Role: g.role, Need: g.need, Count: len(g.tasks), Priority: g.priority})
		}
	}
	var out []leader.Event
	for _, role := range state.SortedKeys(r.changed) {
		out = append(out, leader.Demands{Framework: RunID, Role: role, Demands: byRole[role]})
	}
	clear(r.changed)
	return out
}

// offered puts waiting tasks on the offers they fit and gives the rest back.
// The demand shrinks before the accept, so that the same units are not offered
// a second time.
func (r *Run) offered(offers []fleet.Offer) []leader.Event {
	var answers []leader.Event
	for _, o := range offers {
		launches := r.place(o)
		if len(launches) == 0 {
			answers = append(answers, leader.Decline{Framework: RunID, Offers: []fleet.OfferID{o.ID}})
			continue
		}
		answers = append(answers, leader.Accept{Framework: RunID, Offers: []fleet.OfferID{o.ID}, Operations: []leader.Operation{{Launch: launches}}})
	}
	return append(r.demands(), answers...)
}

func (r *Run) place(o fleet.Offer) []fleet.Launch {
	var out []fleet.Launch
	left := o.Resources
	for _, k := range state.SortedKeys(r.waiting) {
		g := r.waiting[k]
		if g.role != o.Role {
			continue
		}
		for len(g.tasks) > 0 {
			res, ok := unit(o, left, g.need)
			if !ok {
				break
			}
			id := g.tasks[0]
			r.drop(id)
			left = left.Sub(res)
			out = append(out, fleet.Launch{Task: id, Spec: r.look(id).Spec, Resources: res})
		}
	}
	return out
}

// unit takes one unit of a need out of what is left of an offer: what is
// reserved for the role first.
func unit(o fleet.Offer, left fleet.Resources, n fleet.Need) (fleet.Resources, bool) {
	res := fleet.Resources{CPUs: n.CPUs, Mem: n.Mem, Disk: n.Disk}
	if n.Site != "" && n.Site != o.Site || n.Agent != "" && n.Agent != o.Agent {
		return res, false
	}
	for k, v := range n.Labels {
		if o.Labels[k] != v {
			return res, false
		}
	}
	gpus := left.Total().GPUs
	for _, d := range o.Devices {
		if _, free := slices.BinarySearch(gpus, d.UUID); free && len(res.GPUs) < n.GPU.Count && n.GPU.Accepts(d) {
			res.GPUs = append(res.GPUs, d.UUID)
		}
	}
	if fleet.SortGPUs(res.GPUs); len(res.GPUs) < n.GPU.Count {
		return res, false
	}
	return left.Pick(res)
}
