package registrar

import (
	"time"

	"github.com/hashicorp/raft"
)

const officePause = 10 * time.Millisecond

// Leadership tells whether this replica leads. It holds the newest value only
// and never makes Raft wait; it has one reader. Leading is announced when the
// state holds everything that earlier terms committed. The channel is closed
// with the registrar.
func (r *Raft) Leadership() <-chan Leadership { return r.leadership }

func (r *Raft) leadershipLoop() {
	defer close(r.leadership)
	var last Leadership
	announce := func(l Leadership) {
		if l == last || !l.Leading && !last.Leading {
			return
		}
		last = l
		select {
		case <-r.leadership: // an older value nobody read
		default:
		}
		r.leadership <- l // the only sender: there is room
	}
	for {
		select {
		case <-r.ctx.Done():
			announce(Leadership{Term: r.raft.CurrentTerm()})
			return
		case leading := <-r.raft.LeaderCh():
			if !leading {
				announce(Leadership{Term: r.raft.CurrentTerm()})
				continue
			}
			if term, ok := r.takeOffice(); ok {
				announce(Leadership{Leading: true, Term: term})
			}
		}
	}
}

// takeOffice finishes what earlier terms committed. It fails when leadership is
// lost meanwhile; LeaderCh then has the news.
func (r *Raft) takeOffice() (uint64, bool) {
	for r.raft.State() == raft.Leader && r.ctx.Err() == nil {
		term := r.raft.CurrentTerm()
		r.capability.Store(0) // of another term's voters
		err := r.establish(term)
		if err == nil {
			return term, true
		}
		r.log.Warn("cannot take office yet", "term", term, "error", err)
		select {
		case <-time.After(officePause): // a handover under way ends or fails
		case <-r.ctx.Done():
		}
	}
	return 0, false
}
