package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Grow joins one more replica and starts it. It does not wait for its vote.
func (f *Fleet) Grow(id fleet.ReplicaID) *Replica {
	f.tb.Helper()
	r, err := f.TryGrowBy(f.Line(pki.KindReplica, 1), id)
	f.fatal(err)
	return r
}

// TryGrowBy is Grow with a join line; the error is what the joiner is told.
func (f *Fleet) TryGrowBy(line pki.JoinLine, id fleet.ReplicaID) (*Replica, error) {
	f.tb.Helper()
	conn := f.conn(f.host(0, 7443))
	r := &Replica{ID: id, Addr: conn.LocalAddr().String(), f: f, dir: filepath.Join(f.dir, fmt.Sprintf("%s-%d", id, f.hosts))}
	got, err := controlplane.Join(f.tb.Context(), line, controlplane.JoinOptions{
		DataDir: r.dir, ID: id, Addr: r.Addr, Conn: f.conn(f.host(2, 1000)), Now: func() time.Time { return time.Now().Add(f.Clock) },
	})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	r.ID = got
	f.Replicas = append(f.Replicas, r)
	f.tb.Cleanup(r.Stop)
	r.start(conn)
	return r, nil
}

// Voters are those that vote, as the leader has them.
func (f *Fleet) Voters() (ids []fleet.ReplicaID) {
	f.tb.Helper()
	for _, m := range f.Leader().Status().Replicas {
		if m.Voter {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// Forget takes a replica out of those that the fleet waits for.
func (f *Fleet) Forget(r *Replica) { f.Replicas = f.Others(r) }

// Save takes a snapshot from the leader.
func (f *Fleet) Save() (client.SnapshotHeader, []byte) {
	f.tb.Helper()
	h, body, err := f.Leader().Export(f.tb.Context())
	f.fatal(err)
	return h, body
}

// Restore restores a snapshot at the leader and waits until that leads again.
func (f *Fleet) Restore(h client.SnapshotHeader, body []byte) client.Restored {
	f.tb.Helper()
	ctx, cancel := context.WithTimeout(f.tb.Context(), time.Minute)
	defer cancel()
	done, err := f.Leader().Import(ctx, h, body, "operator/test")
	f.fatal(err)
	return done
}

// Adopt starts a replica whose data directory is there already.
func (f *Fleet) Adopt(id fleet.ReplicaID, addr, dir string) *Replica {
	f.tb.Helper()
	r := &Replica{ID: id, Addr: addr, f: f, dir: dir}
	f.Replicas = append(f.Replicas, r)
	f.tb.Cleanup(r.Stop)
	r.Start()
	return r
}

// Dir is the replica's data directory.
func (r *Replica) Dir() string { return r.dir }
