package api

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// onAgent makes a route that changes one agent and answers with what it is then.
func (h *handler) onAgent(change func(w http.ResponseWriter, r *http.Request, id fleet.AgentID) error) route {
	return func(w http.ResponseWriter, r *http.Request) error {
		id := r.PathValue("id")
		if fleet.CheckID("agent", id) != nil {
			return notFound("agent", id, "tender agents")
		}
		if err := change(w, r, fleet.AgentID(id)); err != nil {
			return err
		}
		return h.getAgent(w, r)
	}
}

func (h *handler) drainAgent(w http.ResponseWriter, r *http.Request, id fleet.AgentID) error {
	in, err := body[client.StartDrain](w, r, true)
	if err != nil {
		return err
	}
	c := state.DrainAgent{Agent: id, MarkGone: in.MarkGone}
	if in.MaxGrace != nil {
		if c.MaxGrace = time.Duration(*in.MaxGrace); c.MaxGrace <= 0 || c.MaxGrace > 24*time.Hour {
			return invalid(fmt.Errorf("max_grace %v: write more than 0s and at most 24h", c.MaxGrace))
		}
	}
	_, err = h.propose(r.Context(), state.Command{DrainAgent: &c})
	return err
}

func (h *handler) deactivateAgent(_ http.ResponseWriter, r *http.Request, id fleet.AgentID) error {
	_, err := h.propose(r.Context(), state.Command{SetActive: &state.SetActive{Agent: id}})
	return err
}

func (h *handler) reactivateAgent(_ http.ResponseWriter, r *http.Request, id fleet.AgentID) error {
	_, err := h.propose(r.Context(), state.Command{SetActive: &state.SetActive{Agent: id, Active: true}})
	return err
}

func (h *handler) agentGone(_ http.ResponseWriter, r *http.Request, id fleet.AgentID) error {
	_, err := h.propose(r.Context(), state.Command{MarkGone: &state.MarkGone{Agent: id}})
	return err
}

func (h *handler) reserve(end bool) func(http.ResponseWriter, *http.Request, fleet.AgentID) error {
	return func(w http.ResponseWriter, r *http.Request, id fleet.AgentID) error {
		in, err := body[client.Reserve](w, r, false)
		if err != nil {
			return err
		}
		who := access.From(r.Context())
		ev := leader.Reserve{Agent: id, Role: fleet.Role(in.Role), End: end, Principal: who.String(), By: who.String()}
		if err := reservation(in, &ev); err != nil {
			return invalid(err)
		}
		res, err := h.b.Reserve(r.Context(), ev)
		if err == nil && res.Err() == nil {
			noteDone(r.Context())
		}
		return err
	}
}

// reservation reads how much is asked for.
func reservation(in client.Reserve, ev *leader.Reserve) error {
	if in.Role == "" {
		return errors.New("role is missing: for whom is it?")
	}
	amounts, err := quantitiesOf(in.Resources)
	if err != nil {
		return err
	}
	for _, a := range amounts {
		switch a.Name {
		case "cpus":
			ev.Resources.CPUs = a.Amount
		case "mem":
			ev.Resources.Mem = a.Amount
		case "disk":
			ev.Resources.Disk = a.Amount
		case "gpus":
			if ev.GPUs, err = fleet.GPUCount(a.Amount.String()); err != nil {
				return fmt.Errorf("gpus %v: only whole ones can be reserved", a.Amount)
			}
		default:
			if a.Amount > 0 {
				ev.Resources.Custom = append(ev.Resources.Custom, a)
			}
		}
	}
	for _, u := range in.GPUUUIDs {
		ev.Resources.GPUs = append(ev.Resources.GPUs, gpu.UUID(u))
	}
	ev.Resources.GPUs = fleet.SortGPUs(ev.Resources.GPUs)
	return fleet.CheckResources(ev.Resources)
}

func (h *handler) listMaintenance(w http.ResponseWriter, r *http.Request) error {
	list, now := client.WindowList{Windows: []client.Window{}}, h.Now()
	err := h.b.Read(r.Context(), func(st *state.State) {
		for _, id := range state.SortedKeys(st.Agents) {
			if a := st.Agents[id]; !a.Revoked && a.Window != nil {
				list.Windows = append(list.Windows, windowDoc(now, a))
			}
		}
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(list.Windows, func(x, y client.Window) int {
		return cmp.Or(x.Start.Compare(y.Start), cmp.Compare(x.Agent, y.Agent))
	})
	return answer(w, http.StatusOK, list)
}

func (h *handler) setMaintenance(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.SetMaintenance](w, r, false)
	if err != nil {
		return err
	}
	win := fleet.Unavailability{Start: in.Start.UTC(), Duration: time.Duration(in.Duration)}
	switch {
	case in.Start.IsZero():
		return invalid(errors.New("start is missing: when will the agents be down?"))
	case win.Duration < 0:
		return invalid(fmt.Errorf("duration %v: write 0s for a window without end, or more", win.Duration))
	case win.Duration > 0 && !win.Start.Add(win.Duration).After(h.Now()):
		return invalid(fmt.Errorf("the window ended at %s, and now is %s", win.Start.Add(win.Duration).Format(time.RFC3339), utc(h.Now()).Format(time.RFC3339)))
	}
	return h.maintain(w, r, in.Agents, &win)
}

func (h *handler) clearMaintenance(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.ClearMaintenance](w, r, false)
	if err != nil {
		return err
	}
	return h.maintain(w, r, in.Agents, nil)
}

func (h *handler) maintain(w http.ResponseWriter, r *http.Request, agents []string, win *fleet.Unavailability) error {
	if len(agents) == 0 {
		return invalid(errors.New("agents is empty: which ones?"))
	}
	c := state.SetMaintenance{Window: win}
	for _, a := range agents {
		c.Agents = append(c.Agents, fleet.AgentID(a))
	}
	if _, err := h.propose(r.Context(), state.Command{SetMaintenance: &c}); err != nil {
		return err
	}
	return h.listMaintenance(w, r)
}

func windowDoc(now time.Time, a *fleet.Agent) client.Window {
	return client.Window{
		Agent: string(a.ID), Start: utc(a.Window.Start), Duration: client.Duration(a.Window.Duration), Now: within(now, a.Window),
	}
}

func within(now time.Time, w *fleet.Unavailability) bool {
	return w != nil && !now.Before(w.Start) && (w.Duration == 0 || now.Before(w.Start.Add(w.Duration)))
}

// availability says whether an agent is offered. Maintenance is only announced:
// what else holds goes before it.
func availability(now time.Time, a *fleet.Agent) string {
	switch {
	case a.Revoked:
		return ""
	case a.Drain != nil && a.Drain.Done.IsZero():
		return client.AgentDraining
	case a.Drain != nil:
		return client.AgentDrained
	case a.Deactivated:
		return client.AgentDeactivated
	case within(now, a.Window):
		return client.AgentMaintenance
	}
	return client.AgentActive
}

func drainDoc(d *fleet.Drain, tasks, updates int) *client.Drain {
	if d == nil {
		return nil
	}
	return &client.Drain{
		Started: utc(d.Started), MaxGrace: client.Duration(d.MaxGrace), MarkGone: d.MarkGone, Done: utc(d.Done),
		TasksLeft: tasks, UpdatesLeft: updates, Revision: fmt.Sprintf("%d-%d-%v", tasks, updates, !d.Done.IsZero()),
	}
}
