package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Trio is what operators do with the control plane itself. Errors are as
// Backend's.
type Trio interface {
	// Members tells how the replicas are, as far as this one knows. It never
	// blocks.
	Members() map[fleet.ReplicaID]Member
	// RemoveReplica takes a replica out for good.
	RemoveReplica(ctx context.Context, id fleet.ReplicaID, force bool, by string) error
	// Export returns the state as a snapshot file holds it.
	Export(ctx context.Context) (client.SnapshotHeader, []byte, error)
	// Import replaces the state by that of a snapshot.
	Import(ctx context.Context, h client.SnapshotHeader, body []byte, by string) (client.Restored, error)
	// Fault is why this replica acknowledges nothing now, nil while it does.
	Fault() error
}

// Member is how a replica is.
type Member struct {
	// Version and Capability are what it runs; Heard: it has just said so.
	Version    string
	Capability uint64
	Heard      bool
	// Free are the bytes left on its disk; Low: too few to lead; Fault: why
	// nothing can be written there.
	Free  uint64
	Low   bool
	Fault string
	// Stable is since when it has been healthy; zero while it is not, and on
	// followers.
	Stable time.Time
}

// snapshotTime bounds the transfer of a snapshot.
const snapshotTime = 10 * time.Minute

// trio adds the routes about the control plane itself.
func (h *handler) trio(mux *http.ServeMux) {
	mux.Handle("GET /v1/replicas", h.serve(h.listReplicas))
	if h.Trio == nil {
		return
	}
	mux.Handle("POST /v1/replicas/{id}/remove", h.leader(access.Administer, callTime, h.removeReplica))
	mux.Handle("GET /v1/snapshot", h.leader(access.Administer, snapshotTime, h.saveSnapshot))
	mux.Handle("POST /v1/snapshot", h.leader(access.Administer, snapshotTime, h.restoreSnapshot))
}

// listReplicas answers from what this replica knows, or the leader.
func (h *handler) listReplicas(w http.ResponseWriter, r *http.Request) error {
	p, s := readParams(r, "from"), h.b.Status()
	from := p.text("from")
	if from == "leader" && s.Leader != s.ID && s.LeaderAddr != "" {
		return h.passOn(w, r, s)
	}
	return h.judge(access.Look, func(w http.ResponseWriter, r *http.Request) error {
		switch {
		case p.err != nil:
			return p.err
		case from != "" && from != "leader":
			return badRequest("parameter from=%.40q: write leader", from)
		case from != "" && s.Leader == "":
			return client.NewProblem(client.CodeNoLeader, "see what one replica knows: tender replicas", "no replica is known to lead")
		}
		return h.replicas(w, r)
	})(w, r)
}

func (h *handler) replicas(w http.ResponseWriter, _ *http.Request) error {
	s := h.b.Status()
	var members map[fleet.ReplicaID]Member
	if h.Trio != nil {
		members = h.Trio.Members()
	}
	doc := client.Replicas{Self: string(s.ID), Leader: string(s.Leader), Term: s.Term, Replicas: []client.Replica{}}
	for _, p := range s.Replicas {
		d := client.Replica{
			ID: string(p.ID), Addr: p.Addr, Voter: p.Voter, Leader: p.ID == s.Leader, Self: p.ID == s.ID,
			LastContact: utc(p.LastContact), Lag: p.Lag,
		}
		if m, ok := members[p.ID]; ok {
			d.Version, d.Capability, d.HealthySince = m.Version, m.Capability, utc(m.Stable)
			if m.Heard {
				d.Disk = &client.ReplicaDisk{Free: m.Free, Low: m.Low, Fault: m.Fault}
			}
		}
		doc.Replicas = append(doc.Replicas, d)
	}
	return answer(w, http.StatusOK, doc)
}

func (h *handler) removeReplica(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.RemoveReplica](w, r, true)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if fleet.CheckID("replica", id) != nil {
		return notFound("replica", id, "tender replica ls")
	}
	if err := h.Trio.RemoveReplica(r.Context(), fleet.ReplicaID(id), in.Force, access.From(r.Context()).String()); err != nil {
		return err
	}
	return h.replicas(w, r)
}

func (h *handler) saveSnapshot(w http.ResponseWriter, r *http.Request) error {
	head, state, err := h.Trio.Export(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/vnd.tender.snapshot")
	w.WriteHeader(http.StatusOK)
	// What breaks off is found out by its checksum.
	_ = client.WriteSnapshot(w, head, state)
	return nil
}

func (h *handler) restoreSnapshot(w http.ResponseWriter, r *http.Request) error {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(snapshotTime))
	var state bytes.Buffer
	head, err := client.CheckSnapshot(io.LimitReader(r.Body, client.MaxSnapshot+2<<20), &state)
	if errors.Is(err, client.ErrSnapshot) {
		return client.NewProblem(client.CodeInvalid, "look at the file: tender snapshot inspect FILE", "%v", err)
	}
	if err != nil {
		return badRequest("the snapshot did not arrive: %v", err)
	}
	done, err := h.Trio.Import(r.Context(), head, state.Bytes(), access.From(r.Context()).String())
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, done)
}

func (h *handler) settleAgent(_ http.ResponseWriter, r *http.Request, id fleet.AgentID) error {
	_, err := h.propose(r.Context(), state.Command{Settle: &state.Settle{Agent: id}})
	return err
}

// restoredDoc adds what a restore left open about an agent.
func restoredDoc(st *state.State, id fleet.AgentID, soft AgentSoft, doc client.Agent) client.Agent {
	if !st.Unsettled[id] {
		return doc
	}
	doc.Unsettled = true
	if doc.Availability == client.AgentActive || doc.Availability == client.AgentMaintenance {
		doc.Availability = client.AgentUnsettled
	}
	for _, o := range soft.Orphans {
		doc.Orphans = append(doc.Orphans, client.Orphan{Task: string(o.Task), State: o.State.String()})
	}
	return doc
}
