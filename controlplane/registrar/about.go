package registrar

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

// aboutKind is a stream on which a replica says how it is. One that does not
// know the kind resets it.
const aboutKind = transport.StreamKind("about")

const (
	aboutTime = 2 * time.Second
	maxAbout  = 8 << 10
)

// About is what a replica says of itself.
type About struct {
	Version string `json:"version"`
	// Capability is package state's, of the program that runs there.
	Capability uint64 `json:"capability"`
	// Free are the bytes left on the disk of its log. Low: a leader would hand
	// over. Fault says why nothing can be written, empty while it can.
	Free  uint64 `json:"free"`
	Low   bool   `json:"low,omitempty"`
	Fault string `json:"fault,omitempty"`
	// What Config.Tell adds: the version of the trust bundle that it holds, its
	// issuing authority (DER), the old root's signature of that, the rotation it
	// was made for, whether a root key lies there, and the first digits of the
	// digests of the packages that it has.
	Bundle   uint64   `json:"bundle,omitempty"`
	Issuer   []byte   `json:"issuer,omitempty"`
	Cross    []byte   `json:"cross,omitempty"`
	Round    uint64   `json:"round,omitempty"`
	RootKey  bool     `json:"root_key,omitempty"`
	Packages []string `json:"packages,omitempty"`
}

// Health is About for this replica. It never blocks on others.
func (r *Raft) Health() About {
	a := About{Version: r.cfg.Version, Capability: r.cfg.Capability}
	if r.cfg.Tell != nil {
		r.cfg.Tell(&a)
	}
	g := r.stores.guard
	if g == nil {
		return a
	}
	if _, err := g.fault(); err != nil {
		a.Fault = err.Error()
	}
	if free, err := g.space(); err == nil {
		a.Free, a.Low = free, free < r.cfg.Reserve
	} else if a.Fault == "" {
		a.Fault = err.Error()
	}
	return a
}

// About asks another member how it is. One whose version does not know the
// question gives an error as well.
func (r *Raft) About(ctx context.Context, id fleet.ReplicaID) (About, error) {
	if id == r.cfg.ID {
		return r.Health(), nil
	}
	if r.layer == nil {
		return About{}, errors.New("no sessions to ask over")
	}
	ctx, cancel := context.WithTimeout(ctx, aboutTime)
	defer cancel()
	st, _, err := r.layer.stream(ctx, r.addrOf(id), aboutKind)
	if err != nil {
		return About{}, fmt.Errorf("asking replica %s: %w", id, err)
	}
	defer st.Reset()
	if end, ok := ctx.Deadline(); ok {
		_ = st.SetDeadline(end)
	}
	var a About
	// The answer is the other side's first word, and its last.
	if err := json.NewDecoder(io.LimitReader(st, maxAbout)).Decode(&a); err != nil {
		return About{}, fmt.Errorf("asking replica %s: %w", id, err)
	}
	a.Capability = max(a.Capability, 1)
	return a, nil
}

// tell implements members.
func (r *Raft) tell(st transport.Stream) {
	_ = st.SetDeadline(time.Now().Add(aboutTime))
	if err := json.NewEncoder(st).Encode(r.Health()); err != nil {
		st.Reset()
		return
	}
	_ = st.Close()
}

func (r *Raft) addrOf(id fleet.ReplicaID) (addr string) {
	for _, m := range r.Replicas() {
		if m.ID == id {
			addr = m.Addr
		}
	}
	return addr
}

// SetCapability says up to which capability all voters can follow, as far as
// is known now. Until then in a term, what they said before counts.
func (r *Raft) SetCapability(n uint64) { r.capability.Store(n) }

// Capability is up to which capability commands may be proposed.
func (r *Raft) Capability() uint64 {
	if n := r.capability.Load(); n > 0 {
		return min(n, r.cfg.Capability)
	}
	lowest := r.cfg.Capability
	members := r.servers()
	r.m.read(func(s *state.State) {
		for _, m := range members {
			if m.Suffrage != raft.Voter || string(m.ID) == string(r.cfg.ID) {
				continue
			}
			said := uint64(1)
			if rec := s.Replicas[fleet.ReplicaID(m.ID)]; rec != nil {
				said = max(rec.Capability, 1)
			}
			lowest = min(lowest, said)
		}
	})
	return lowest
}

// allowed refuses commands that a voter could not apply.
func (r *Raft) allowed(needs uint64) error {
	if needs <= 1 {
		return nil
	}
	if have := r.Capability(); needs > have {
		return fmt.Errorf("%w: this needs capability %d, and the replicas together have %d; upgrade all of them (tender replica ls)", ErrTooNew, needs, have)
	}
	return nil
}

// Export returns a copy of the state, not older than the call, and the newest
// entry and the term that it stands for. Only the leader can.
func (r *Raft) Export(ctx context.Context) (st *state.State, index, term uint64, err error) {
	term = r.raft.CurrentTerm()
	err = r.Read(ctx, func(s *state.State) { st, index = s.Clone(), r.m.applied })
	return st, index, term, err
}

// Import replaces the state of all replicas by st and returns when a majority
// has it. What was in flight is lost: its Propose says ErrTimeout. Followers of
// the log are cut off, and must begin anew from what is here then.
func (r *Raft) Import(ctx context.Context, st *state.State) error {
	if err := r.allowed(st.Format); err != nil {
		return err
	}
	data, err := EncodeState(st)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRejected, err)
	}
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Size: int64(len(data))}
	err = r.change(ctx, "restoring a snapshot", func() raft.Future {
		return done{r.raft.Restore(meta, bytes.NewReader(data), importTime)}
	})
	if err != nil {
		return err
	}
	// The count of what is applied has a hole where the snapshot was put.
	barrier := r.raft.Barrier(importTime)
	if err := barrier.Error(); err != nil {
		return fmt.Errorf("restoring a snapshot: %w", r.explain(err))
	}
	if f, ok := barrier.(raft.IndexFuture); ok {
		r.m.advance(f.Index())
	}
	return nil
}

// importTime is how long the others may take to follow a restored snapshot.
const importTime = 5 * time.Minute

// done is a future that is over.
type done struct{ err error }

func (d done) Error() error { return d.err }

// Seed makes Dir that of a new control plane with the state st: this replica is
// its one voter. Nothing may be there yet. Open serves it.
func Seed(cfg Config, st *state.State) error {
	cfg.Member = false
	_, cfg.Transport = raft.NewInmemTransport(raft.ServerAddress(cfg.Addr)) // nobody is spoken to
	if err := cfg.populate(); err != nil {
		return fmt.Errorf("registrar: seed: %w", err)
	}
	data, err := EncodeState(st)
	if err != nil {
		return fmt.Errorf("registrar: seed: %w", err)
	}
	s, err := openStores(&cfg, func(error) {})
	if err != nil {
		return fmt.Errorf("registrar: seed: %w", err)
	}
	return errors.Join(s.seed(&cfg, data), s.close())
}

func (s *stores) seed(cfg *Config, data []byte) error {
	if there, err := raft.HasExistingState(s.log, s.stable, s.snapshots); err != nil || there {
		return errors.Join(fmt.Errorf("registrar: seed: %s already holds the log of a replica", filepath.Clean(cfg.Dir)), err)
	}
	sink, err := s.snapshots.Create(raft.SnapshotVersionMax, 1, 1, raft.Configuration{
		Servers: []raft.Server{{ID: raft.ServerID(cfg.ID), Address: raft.ServerAddress(cfg.Addr)}},
	}, 1, cfg.Transport)
	if err != nil {
		return fmt.Errorf("registrar: seed: %w", err)
	}
	if _, err := sink.Write(data); err != nil {
		return errors.Join(fmt.Errorf("registrar: seed: %w", err), sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("registrar: seed: %w", err)
	}
	if err := s.stable.SetUint64([]byte(keyTerm), 1); err != nil {
		return fmt.Errorf("registrar: seed: %w", err)
	}
	return nil
}
