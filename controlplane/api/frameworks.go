package api

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func (h *handler) listFrameworks(w http.ResponseWriter, r *http.Request) error {
	p := readParams(r, "all")
	all := p.boolean("all", false)
	if p.err != nil {
		return p.err
	}
	docs, err := h.frameworks(r.Context())
	if err != nil {
		return err
	}
	if !all {
		docs = slices.DeleteFunc(docs, func(d client.Framework) bool { return d.State == client.FrameworkTornDown })
	}
	return answer(w, http.StatusOK, client.FrameworkList{Frameworks: docs})
}

func (h *handler) getFramework(w http.ResponseWriter, r *http.Request) error {
	doc, err := h.framework(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, doc)
}

func (h *handler) framework(ctx context.Context, id string) (client.Framework, error) {
	docs, err := h.frameworks(ctx)
	if err != nil {
		return client.Framework{}, err
	}
	for _, d := range docs {
		if d.ID == id {
			return d, nil
		}
	}
	return client.Framework{}, notFound("framework", id, "tender framework list")
}

// frameworks are those that the asker may know, by id.
func (h *handler) frameworks(ctx context.Context) ([]client.Framework, error) {
	views := map[fleet.FrameworkID]leader.FrameworkView{}
	err := h.b.Ask(ctx, func(l *leader.Leader) {
		for _, v := range l.Frameworks() {
			views[v.ID] = v
		}
	})
	if err != nil {
		return nil, err
	}
	who, now := access.From(ctx), h.Now()
	docs := []client.Framework{}
	err = h.b.Read(ctx, func(st *state.State) {
		tasks, roles := map[fleet.FrameworkID]map[string]int{}, map[fleet.FrameworkID]map[fleet.Role]bool{}
		for _, t := range st.Tasks {
			if !who.MayUse(t.Role) {
				continue
			}
			if tasks[t.Framework] == nil {
				tasks[t.Framework], roles[t.Framework] = map[string]int{}, map[fleet.Role]bool{}
			}
			tasks[t.Framework][t.State.String()]++
			roles[t.Framework][t.Role] = true
		}
		ids := map[fleet.FrameworkID]bool{}
		for id, v := range views {
			ids[id] = !v.Outside
		}
		for id, f := range st.Frameworks {
			ids[id] = who.AllRoles || slices.ContainsFunc(f.Info.Roles, who.MayUse)
		}
		for _, id := range state.SortedKeys(ids) {
			if ids[id] {
				d := frameworkDoc(now, id, st.Frameworks[id], views[id])
				if d.BuiltIn {
					d.Roles = append(d.Roles, roleNames(state.SortedKeys(roles[id]))...)
				}
				maps.Copy(d.Tasks, tasks[id])
				docs = append(docs, d)
			}
		}
	})
	return docs, err
}

func frameworkDoc(now time.Time, id fleet.FrameworkID, f *state.Framework, v leader.FrameworkView) client.Framework {
	d := client.Framework{
		ID: string(id), State: client.FrameworkDisconnected, Roles: []string{}, Since: utc(v.Since),
		Offers: v.Offers, Inverse: v.Inverse, Tasks: map[string]int{},
	}
	if v.Connected {
		d.State = client.FrameworkConnected
	}
	if f == nil {
		d.Name, d.BuiltIn = string(id), true
		return d
	}
	i := f.Info
	d.Name, d.Principal, d.Hostname, d.WebUI = i.Name, i.Principal, i.Hostname, i.WebUI
	d.Roles = append(d.Roles, roleNames(i.Roles)...)
	d.Suppressed = roleNames(v.Suppressed)
	for _, c := range i.Capabilities {
		d.Capabilities = append(d.Capabilities, string(c))
	}
	d.Registered, d.TornDown, d.Failover = utc(f.Registered), utc(f.Ended), client.Duration(i.FailoverTimeout)
	switch {
	case !f.Ended.IsZero():
		d.State = client.FrameworkTornDown
	case !v.Connected && !v.Away.IsZero():
		left := client.Duration(max(0, i.FailoverTimeout-now.Sub(v.Away)))
		d.Away, d.FailoverLeft = utc(v.Away), &left
	}
	return d
}

func (h *handler) teardownFramework(w http.ResponseWriter, r *http.Request) error {
	d, err := h.framework(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if d.BuiltIn {
		return client.NewProblem(client.CodeConflict, "stop its tasks with: tender task stop",
			"framework %s is part of the control plane and cannot be torn down", d.ID)
	}
	if _, err := h.propose(r.Context(), state.Command{Teardown: &state.Teardown{ID: fleet.FrameworkID(d.ID)}}); err != nil {
		return err
	}
	return h.getFramework(w, r)
}

// maxObstacles bounds the reasons that one answer has for a role.
const maxObstacles = 20

func (h *handler) whyFramework(w http.ResponseWriter, r *http.Request) error {
	d, err := h.framework(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	doc := client.FrameworkWhy{Framework: d.ID, Name: d.Name, Roles: []client.RoleWhy{}}
	switch {
	case d.BuiltIn:
		doc.Reason = "it is built in and gets offers for the tasks that wait; ask of one of them: tender why TASK"
	case d.State == client.FrameworkTornDown:
		doc.Reason = "it was torn down"
	case d.State == client.FrameworkDisconnected:
		doc.Reason = "it is not connected"
	default:
		var roles []leader.RoleOutlook
		err := h.b.Ask(r.Context(), func(l *leader.Leader) { roles = l.WhyNot(fleet.FrameworkID(d.ID)) })
		if err != nil {
			return err
		}
		doc.OmittedRoles = len(d.Roles) - len(roles)
		who := access.From(r.Context())
		for _, o := range roles {
			if who.MayUse(o.Role) {
				doc.Roles = append(doc.Roles, roleWhyDoc(o))
			}
		}
	}
	return answer(w, http.StatusOK, doc)
}

func roleWhyDoc(o leader.RoleOutlook) client.RoleWhy {
	d := client.RoleWhy{Role: string(o.Role), Suppressed: o.Suppressed, Offers: o.Offers, Open: o.Open, Obstacles: []client.Obstacle{}}
	for i, x := range o.Obstacles {
		if i >= maxObstacles {
			d.Omitted += x.Count
			continue
		}
		ids := []string{}
		for _, a := range x.Agents {
			ids = append(ids, string(a))
		}
		d.Obstacles = append(d.Obstacles, client.Obstacle{Reason: x.Reason, Count: x.Count, Agents: ids, Until: utc(x.Until)})
	}
	return d
}

// inverseOffers are those of frameworks that the asker may know.
func (h *handler) inverseOffers(ctx context.Context) ([]client.InverseOffer, error) {
	var out []leader.InverseOffer
	if err := h.b.Ask(ctx, func(l *leader.Leader) { out = l.InverseOffers() }); err != nil {
		return nil, err
	}
	who, docs := access.From(ctx), []client.InverseOffer{}
	err := h.b.Read(ctx, func(st *state.State) {
		for _, o := range out {
			f := st.Frameworks[o.Framework]
			if who.AllRoles || f != nil && slices.ContainsFunc(f.Info.Roles, who.MayUse) {
				docs = append(docs, client.InverseOffer{
					ID: string(o.Offer), Framework: string(o.Framework), Agent: string(o.Request.Agent),
					Resources: resourcesDoc(o.Request.Held), Start: utc(o.Request.Window.Start), Duration: client.Duration(o.Request.Window.Duration),
				})
			}
		}
	})
	return docs, err
}
