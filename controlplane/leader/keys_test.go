package leader_test

import (
	"testing"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
)

// rekeyed is a bench whose agent a2 has session 1 of boot-1 with the key k1, and
// may go on with k2.
func rekeyed(t *testing.T) *bench {
	b := running(t)
	b.step(leader.AgentDown{Agent: "a2", Session: 1})
	// Records of tests have no key: the first one that is used becomes it.
	b.commits(state.Command{Rekey: &state.Rekey{Agent: "a2", Key: "k1", Next: "k1x"}}, state.Command{Confirm: &state.Confirm{Agent: "a2", Key: "k1x"}})
	b.commits(state.Command{Rekey: &state.Rekey{Agent: "a2", Key: "k1x", Next: "k2"}})
	b.key2(1, "boot-1", 10, "k1x")
	b.log = nil
	return b
}

func (b *bench) commits(cmds ...state.Command) {
	for i := range cmds {
		cmds[i].Time = b.now
	}
	b.pending = append(b.pending, cmds...)
	b.commit()
}

func (b *bench) key2(session uint64, boot string, epoch uint64, key string) {
	b.step(leader.AgentUp{Agent: "a2", Session: session, Capacity: a2, Boot: boot, Epoch: epoch, Key: key, Remote: "192.0.2.9:4"})
}

func TestFirstUseOfTheNextKey(t *testing.T) {
	b := rekeyed(t)
	b.key2(2, "boot-1", 11, "k2")
	b.expect("disconnect a2 1 replaced", "propose confirm a2 k2")
	b.commit()
	b.expect()
	if rec := b.l.State().Agents["a2"]; rec.KeyHash != "k2" || rec.NextKey != "" {
		t.Errorf("keys %q, %q", rec.KeyHash, rec.NextKey)
	}
	b.key2(3, "boot-1", 12, "k2")
	b.expect("disconnect a2 2 replaced")
}

// A session with an old key takes nobody's place, and is refused once the trio
// says that the key is a copy's.
func TestOldKeyIsACopy(t *testing.T) {
	b := rekeyed(t)
	b.key2(2, "boot-1", 11, "k2")
	b.commit()
	b.log = nil
	b.key2(3, "boot-2", 12, "k1x")
	b.expect("propose cloned a2 k1x")
	if got := b.l.Session("a2"); got != 2 {
		t.Errorf("session %d has the seat, want 2", got)
	}
	b.commit()
	b.expect("disconnect a2 3 cloned")
	if c := b.l.State().Agents["a2"].Cloned; c == nil || c.Addr != "192.0.2.9:4" {
		t.Errorf("recorded: %+v", c)
	}
	// It goes away before the trio has spoken.
	b.key2(4, "boot-2", 13, "k1x")
	b.log = nil
	b.step(leader.AgentDown{Agent: "a2", Session: 4})
	b.commit()
	b.expect()
}

// This leader's copy may be behind: the agent's newest key is not yet in it.
func TestKeyThatTheTrioKnows(t *testing.T) {
	b := rekeyed(t)
	b.step(leader.AgentDown{Agent: "a2", Session: 1})
	b.commit()
	b.log = nil
	b.key2(2, "boot-1", 11, "k3")
	b.expect("propose cloned a2 k3")
	ahead := state.Command{Time: b.now, Rekey: &state.Rekey{Agent: "a2", Key: "k1x", Next: "k3"}}
	b.pending = append([]state.Command{ahead}, b.pending...)
	b.commit()
	b.expect("propose confirm a2 k3", "resync a2 2")
	if got := b.l.Session("a2"); got != 2 {
		t.Errorf("session %d has the seat, want 2", got)
	}
}

// Of two machines that are there at once, the one with the newer key stays.
func TestNewerKeyThrowsTheCopyOut(t *testing.T) {
	b := rekeyed(t)
	b.key2(2, "boot-2", 11, "k2")
	b.expect("propose cloned a2", "disconnect a2 1 cloned", "propose confirm a2 k2")
	b.commit()
	if got := b.l.Session("a2"); got != 2 {
		t.Errorf("session %d has the seat, want 2", got)
	}
}

// A renewal changes the key under a live session.
func TestRenewalOverTheSession(t *testing.T) {
	b := rekeyed(t)
	b.commits(state.Command{Confirm: &state.Confirm{Agent: "a2", Key: "k2"}})
	b.expect()
	// After a restart of the machine the old session is asked as always, since
	// it had the same key.
	b.key2(2, "boot-2", 11, "k2")
	b.expect("ask a2 1")
}
