package api

import (
	"net/http"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

func (h *handler) listAgents(w http.ResponseWriter, r *http.Request) error {
	soft, err := h.b.Soft(r.Context())
	if err != nil {
		return err
	}
	list, now := client.AgentList{Agents: []client.Agent{}}, h.Now()
	err = h.b.Read(r.Context(), func(st *state.State) {
		holdings := held(st, access.From(r.Context()))
		for _, id := range state.SortedKeys(st.Agents) {
			list.Agents = append(list.Agents, restoredDoc(st, id, soft.Agents[id], agentDoc(now, st.Agents[id], soft.Agents[id], holdings)))
		}
	})
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list)
}

// getAgent answers at once, or when the revision of the agent's drain is not
// the one that the asker has any more.
func (h *handler) getAgent(w http.ResponseWriter, r *http.Request) error {
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
	for {
		changed := h.changed() // before the look, so that no change is missed
		doc, err := h.agent(r)
		if err != nil {
			return err
		}
		d := doc.Drain
		if wait == 0 || d == nil || !d.Done.IsZero() || d.Revision != after || !h.pause(r.Context(), changed, end, false) {
			return answer(w, http.StatusOK, doc)
		}
	}
}

func (h *handler) agent(r *http.Request) (doc client.Agent, err error) {
	soft, err := h.b.Soft(r.Context())
	if err != nil {
		return doc, err
	}
	now, id, known := h.Now(), fleet.AgentID(r.PathValue("id")), false
	err = h.b.Read(r.Context(), func(st *state.State) {
		if a := st.Agents[id]; a != nil {
			doc, known = restoredDoc(st, id, soft.Agents[id], agentDoc(now, a, soft.Agents[id], held(st, access.From(r.Context())))), true
		}
	})
	if err == nil && !known {
		err = notFound("agent", string(id), "tender agents")
	}
	return doc, err
}

func (h *handler) revokeAgent(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if fleet.CheckID("agent", id) != nil {
		return notFound("agent", id, "tender agents")
	}
	var domain string
	if err := h.b.Read(r.Context(), func(st *state.State) { domain = st.TrustDomain }); err != nil {
		return err
	}
	who := pki.Identity{TrustDomain: domain, Kind: pki.KindAgent, ID: id}
	c := state.Command{Revoke: &state.Revoke{URI: who.String(), Kind: state.KindAgent, ID: id}}
	if _, err := h.propose(r.Context(), c); err != nil {
		return err
	}
	return h.getAgent(w, r)
}

func (h *handler) listOffers(w http.ResponseWriter, r *http.Request) error {
	soft, err := h.b.Soft(r.Context())
	if err != nil {
		return err
	}
	list := client.OfferList{Offers: []client.Offer{}}
	if list.Inverse, err = h.inverseOffers(r.Context()); err != nil {
		return err
	}
	who := access.From(r.Context())
	for _, o := range soft.Offers {
		if who.MayUse(o.Role) {
			list.Offers = append(list.Offers, offerDoc(o))
		}
	}
	return answer(w, http.StatusOK, list)
}

func (h *handler) version(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, http.StatusOK, h.Version)
}

// health is for load balancers: a replica without a leader serves nobody.
func (h *handler) health(w http.ResponseWriter, _ *http.Request) error {
	s := h.b.Status()
	if h.Trio != nil {
		if err := h.Trio.Fault(); err != nil {
			return client.NewProblem(client.CodeUnavailable, "make space on the disk of its data directory", "this replica acknowledges nothing: %v", err)
		}
	}
	if s.Leader == "" {
		return client.NewProblem(client.CodeNoLeader, "look at the other replicas: tender replicas", "no replica is known to lead")
	}
	return answer(w, http.StatusOK, map[string]string{"status": "ok", "leader": string(s.Leader)})
}
