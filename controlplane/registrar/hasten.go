package registrar

import (
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// Raft by itself notices a dead leader late: a follower looks at random moments,
// up to twice the time-out after the leader's last word and up to thrice when it
// has just looked; and one that has noticed gets no vote from one that has not.
// Here followers look when the time-out is over, one after the other so that
// they do not ask at once, and vote as soon as they miss the leader themselves.
// Terms, votes and logs are judged by Raft as ever: all this can do is to hold
// an election that is not needed.

// missing is the part of a time-out, in tenths, after which a follower no longer
// stands by its leader. Beats come at most two tenths apart, and not to all at
// once.
const missing = 7

// turns is how many followers may look within one time-out.
const turns = 4

// hastenLoop has Raft look whether its leader is silent as soon as it can be.
func (r *Raft) hastenLoop() {
	timer := time.NewTimer(r.cfg.Heartbeat)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			return
		}
		timer.Reset(r.hasten())
	}
}

// hasten looks once and says when to look again.
func (r *Raft) hasten() time.Duration {
	_, leader := r.raft.LeaderWithID()
	if r.raft.State() != raft.Follower || leader == "" {
		return r.cfg.Heartbeat / turns
	}
	left := r.cfg.Heartbeat - time.Since(r.raft.LastContact())
	if left > 0 {
		return left + r.turn(leader)
	}
	r.look()
	return r.cfg.Heartbeat / turns
}

// turn is how much later than others this follower looks.
func (r *Raft) turn(leader raft.ServerID) time.Duration {
	n := 0
	for _, s := range r.servers() {
		if s.ID == raft.ServerID(r.cfg.ID) {
			break
		}
		if s.Suffrage == raft.Voter && s.ID != leader {
			n++
		}
	}
	return time.Duration(n) * r.cfg.Heartbeat / turns
}

// look makes Raft's follower look at once, which it does when its time-out gets
// shorter. It gets longer again when nobody looks.
func (r *Raft) look() {
	rc := r.raft.ReloadableConfig()
	if rc.HeartbeatTimeout < r.cfg.Heartbeat*9/10 {
		rc.HeartbeatTimeout = r.cfg.Heartbeat
		if err := r.raft.ReloadConfig(rc); err != nil {
			r.log.Warn("resetting the heartbeat's time-out", "error", err)
		}
	}
	rc.HeartbeatTimeout -= time.Microsecond
	if err := r.raft.ReloadConfig(rc); err != nil {
		r.log.Warn("shortening the heartbeat's time-out", "error", err)
	}
}

// missed reports whether this follower does without its leader's consent.
func (r *Raft) missed() bool {
	_, leader := r.raft.LeaderWithID()
	return r.raft.State() == raft.Follower && leader != "" && time.Since(r.raft.LastContact()) >= r.cfg.Heartbeat*missing/10
}

// receive passes on what other replicas ask for, and answers by itself who only
// asks whether it would be elected.
func (r *Raft) receive(in <-chan raft.RPC) {
	for {
		select {
		case rpc := <-in:
			switch req := rpc.Command.(type) {
			case *raft.RequestPreVoteRequest:
				if r.missed() && r.wouldElect(req) {
					rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, Term: req.Term, Granted: true}, nil)
					continue
				}
			case *raft.RequestVoteRequest:
				// What it asks Raft for is to look at nothing but term, vote and log.
				req.LeadershipTransfer = req.LeadershipTransfer || r.missed()
			}
			select {
			case r.trans.received <- rpc:
			case <-r.ctx.Done():
				return
			}
		case <-r.ctx.Done():
			return
		}
	}
}

// wouldElect is Raft's judgement of a candidate, without that of the leader.
func (r *Raft) wouldElect(req *raft.RequestPreVoteRequest) bool {
	voter := slices.ContainsFunc(r.servers(), func(s raft.Server) bool {
		return s.Suffrage == raft.Voter && string(s.ID) == string(req.ID)
	})
	stats := r.raft.Stats()
	number := func(name string) uint64 {
		n, _ := strconv.ParseUint(stats[name], 10, 64) // absent and 0 are the same
		return n
	}
	index, term := number("last_log_index"), number("last_log_term")
	if at := number("last_snapshot_index"); at > index {
		index, term = at, number("last_snapshot_term")
	}
	return voter && req.Term >= r.raft.CurrentTerm() &&
		(req.LastLogTerm > term || req.LastLogTerm == term && req.LastLogIndex >= index)
}
