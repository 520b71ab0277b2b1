package wire

import (
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire/pb"
)

// MaxRelay is the longest frame between two replicas. It leaves room for the
// largest message of an agent beside those of others.
const MaxRelay = 4 << 20

// Led tells an agent whom its replica follows now. Term 0: nobody, so nothing
// that the agent says gets any further. Otherwise the agent says again what it
// holds, since the new leader knows nothing of it.
type Led struct{ Term uint64 }

// Ask wants Readings at once: does the agent live?
type Ask struct{}

// RelayHello opens the link of a replica to the leader.
type RelayHello struct {
	Capability int
	Replica    fleet.ReplicaID
}

// RelayWelcome answers it; ResetKey is what the replicas sign stateless resets
// with.
type RelayWelcome struct {
	Capability int
	Term       uint64
	ResetKey   []byte // 32 bytes
}

// Relay carries what is new of many sessions.
type Relay struct{ Items []Relayed }

// Relayed is what is new of one session of the replica that relays; parts that
// are not there say nothing. A receiver takes the parts in the order of the
// fields: Up comes first, Down last.
type Relayed struct {
	// Session is the relaying replica's number of it.
	Session uint64

	// To the leader.
	Up       *SessionUp
	Capacity *fleet.Capacity
	Updates  []fleet.StatusUpdate
	Pull     *Pull
	Readings *fleet.Readings
	Ago      time.Duration // since the agent was last heard of; the replicas' clocks may differ
	Answered bool          // the agent has answered an Ask
	Leave    *Leave
	Down     bool

	// To the replica.
	Acks    []Ack
	Desired []DesiredSet // parts of one set
	Close   *SessionClose
	Ask     bool
	Resync  bool // have the agent say again what it holds
}

// SessionUp describes a session.
type SessionUp struct {
	Agent    fleet.AgentID
	Hostname string
	BootID   string
	Epoch    uint64
	Version  string
	Since    time.Time
	Link     string
	Remote   string
	// Key is the pin of the key that the agent has shown; empty: not known.
	Key string
}

// SessionClose ends a session with a code of package transport.
type SessionClose struct {
	Code   uint64
	Reason string
}

// Through opens a stream that goes through a relaying replica: it names the
// session at whose agent the stream begins or ends.
type Through struct{ Session uint64 }

func (Led) isMessage()          {}
func (Ask) isMessage()          {}
func (RelayHello) isMessage()   {}
func (RelayWelcome) isMessage() {}
func (Relay) isMessage()        {}
func (Through) isMessage()      {}

func relayTo(r Relay) *pb.Relay {
	out := &pb.Relay{Items: make([]*pb.Relayed, len(r.Items))}
	for i := range r.Items {
		out.Items[i] = relayedTo(&r.Items[i])
	}
	return out
}

func relayedTo(r *Relayed) *pb.Relayed {
	out := &pb.Relayed{
		Session: r.Session, AgoNs: int64(r.Ago), Answered: r.Answered, Down: r.Down, Ask: r.Ask, Resync: r.Resync,
		Updates: updatesTo(r.Updates), Acks: acksTo(r.Acks).Acks,
	}
	if u := r.Up; u != nil {
		out.Up = &pb.SessionUp{
			Agent: string(u.Agent), Hostname: text(u.Hostname, MaxName), BootId: text(u.BootID, MaxName), Epoch: u.Epoch,
			Version: text(u.Version, MaxName), SinceNs: unixNano(u.Since), Link: u.Link, Remote: u.Remote, Key: u.Key,
		}
	}
	if r.Capacity != nil {
		out.Capacity = capacityTo(*r.Capacity)
	}
	if r.Pull != nil {
		out.Pull = pullTo(*r.Pull)
	}
	if r.Readings != nil {
		out.Readings = readingsTo(*r.Readings)
	}
	if r.Leave != nil {
		out.Leave = &pb.Leave{GraceNs: int64(r.Leave.Grace)}
	}
	for _, d := range r.Desired {
		out.Desired = append(out.Desired, desiredTo(d))
	}
	if r.Close != nil {
		out.Close = &pb.SessionClose{Code: int64(r.Close.Code), Reason: text(r.Close.Reason, MaxText)}
	}
	return out
}

func relayFrom(r *pb.Relay) Relay {
	if len(r.Items) == 0 {
		return Relay{}
	}
	out := Relay{Items: make([]Relayed, len(r.Items))}
	for i, item := range r.Items {
		out.Items[i] = relayedFrom(item)
	}
	return out
}

func relayedFrom(r *pb.Relayed) Relayed {
	out := Relayed{
		Session: r.Session, Ago: time.Duration(r.AgoNs), Answered: r.Answered, Down: r.Down, Ask: r.Ask, Resync: r.Resync,
		Updates: updatesFrom(r.Updates), Acks: acksFrom(&pb.Acks{Acks: r.Acks}).Acks,
	}
	if u := r.Up; u != nil {
		out.Up = &SessionUp{
			Agent: fleet.AgentID(u.Agent), Hostname: u.Hostname, BootID: u.BootId, Epoch: u.Epoch,
			Version: u.Version, Since: timeFrom(u.SinceNs), Link: u.Link, Remote: u.Remote, Key: u.Key,
		}
	}
	if r.Capacity != nil {
		c := capacityFrom(r.Capacity)
		out.Capacity = &c
	}
	if r.Pull != nil {
		p := pullFrom(r.Pull)
		out.Pull = &p
	}
	if r.Readings != nil {
		v := readingsFrom(r.Readings)
		out.Readings = &v
	}
	if r.Leave != nil {
		out.Leave = &Leave{Grace: time.Duration(r.Leave.GraceNs)}
	}
	for _, d := range r.Desired {
		out.Desired = append(out.Desired, desiredFrom(d))
	}
	if r.Close != nil {
		out.Close = &SessionClose{Code: uint64(r.Close.Code), Reason: r.Close.Reason}
	}
	return out
}

func pullTo(p Pull) *pb.Pull {
	return &pb.Pull{Term: p.Term, Generation: p.Generation, Full: p.Full, Stamp: p.Stamp, CaughtUp: p.CaughtUp}
}

func pullFrom(p *pb.Pull) Pull {
	return Pull{Term: p.Term, Generation: p.Generation, Full: p.Full, Stamp: p.Stamp, CaughtUp: p.CaughtUp}
}

func (c *checker) relay(r Relay) {
	c.count("relayed sessions", len(r.Items), MaxItems)
	for i := range r.Items {
		c.relayed(&r.Items[i])
		if c.err != nil {
			return
		}
	}
}

func (c *checker) relayed(r *Relayed) {
	if u := r.Up; u != nil {
		c.id("agent", string(u.Agent))
		c.free("hostname", u.Hostname, MaxName)
		c.free("boot id", u.BootID, MaxName)
		c.free("version", u.Version, MaxName)
		c.text("link", u.Link, MaxName)
		c.text("remote address", u.Remote, MaxName)
	}
	if r.Capacity != nil {
		c.capacity(*r.Capacity)
	}
	c.notNegative("time since the agent was heard of", int64(r.Ago))
	c.updates(r.Updates)
	if r.Readings != nil {
		c.readings(*r.Readings)
	}
	if r.Leave != nil {
		c.notNegative("grace period", int64(r.Leave.Grace))
	}
	c.acks(r.Acks)
	c.count("parts of a set", len(r.Desired), MaxParts)
	for _, d := range r.Desired {
		c.desired(d.Desired)
	}
	if r.Close != nil {
		c.free("reason", r.Close.Reason, MaxText)
	}
}
