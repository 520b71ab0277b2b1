package state_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// keyed is a state with the agent a1, whose key is k1.
func keyed(t *testing.T) *state.State {
	t.Helper()
	s := booted(t)
	must(t, s, state.Command{Time: t0, PutToken: &state.Token{Hash: "h", Kind: state.KindAgent, Uses: 1, Expires: t0.Add(time.Hour)}})
	must(t, s, state.Command{Time: t0, Admit: &state.Admit{Hash: "h", Kind: state.KindAgent, Name: "a9", KeyHash: "k1"}})
	return s
}

// keys prints what an agent may show: current, next, past.
func keys(s *state.State) string {
	a := s.Agents["a9"]
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", a.KeyHash, a.NextKey, strings.Join(a.PastKeys, ",")))
}

func rekey(key, next string) state.Command {
	return state.Command{Time: t0, Rekey: &state.Rekey{Agent: "a9", Key: key, Next: next, Addr: "192.0.2.1:4", Heal: true}}
}

func confirm(key string) state.Command {
	return state.Command{Time: t0, Confirm: &state.Confirm{Agent: "a9", Key: key}}
}

// Wherever an agent, or an answer to it, is lost, it has a key that is good.
func TestKeysChangeInTwoSteps(t *testing.T) {
	for _, tc := range []struct {
		name string
		cmds []state.Command
		want string // current next past
		last state.Kind
	}{
		{"noted, and lost before it was used", []state.Command{rekey("k1", "k2")}, "k1 k2", state.OK},
		{"noted, lost, and asked for again with the old key", []state.Command{rekey("k1", "k2"), rekey("k1", "k3")}, "k1 k3", state.OK},
		{"noted and used", []state.Command{rekey("k1", "k2"), confirm("k2")}, "k2  k1", state.OK},
		{"used twice", []state.Command{rekey("k1", "k2"), confirm("k2"), confirm("k2")}, "k2  k1", state.OK},
		{"lapsed again before it was used: who signs with it has it", []state.Command{rekey("k1", "k2"), rekey("k2", "k3")}, "k2 k3 k1", state.OK},
		{"a copy with the key left behind", []state.Command{rekey("k1", "k2"), confirm("k2"), rekey("k1", "kx")}, "k2  k1", state.PastKey},
		{"a copy that uses a key left behind", []state.Command{rekey("k1", "k2"), confirm("k2"), confirm("k1")}, "k2  k1", state.PastKey},
		{"a stranger", []state.Command{rekey("kx", "ky")}, "k1", state.Foreign},
		{"a stranger uses a key that nobody noted", []state.Command{confirm("kx")}, "k1", state.Foreign},
		{"no key at all", []state.Command{rekey("", "k2")}, "k1", state.Invalid},
		{"no key is used", []state.Command{confirm("")}, "k1", state.Foreign},
		{"an agent that keeps its key", []state.Command{rekey("k1", "k1")}, "k1", state.OK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := keyed(t)
			var last state.Result
			for _, c := range tc.cmds {
				last = apply(s, c)
			}
			if got := keys(s); got != tc.want || last.Kind != tc.last {
				t.Errorf("keys %q, want %q; the last said %q (%s), want %q", got, tc.want, last.Kind, last.Text, tc.last)
			}
		})
	}
}

// A ban is a ban of every key.
func TestRevokedAgentGetsNoKey(t *testing.T) {
	for name, ban := range map[string]state.Command{
		"revoked": {Time: t0, Revoke: &state.Revoke{URI: "spiffe://fleet.example/agent/a9", Kind: state.KindAgent, ID: "a9"}},
		"gone":    {Time: t0, MarkGone: &state.MarkGone{Agent: "a9"}},
	} {
		s := keyed(t)
		must(t, s, rekey("k1", "k2"))
		must(t, s, ban)
		for _, c := range []state.Command{rekey("k1", "k3"), rekey("k2", "k3"), confirm("k2"), {Time: t0, Cloned: &state.Cloned{Agent: "a9", Key: "kx"}}} {
			if r := apply(s, c); r.Kind != state.RevokedID {
				t.Errorf("%s: %v gave %q (%s)", name, c, r.Kind, r.Text)
			}
		}
		if got := keys(s); got != "k1 k2" {
			t.Errorf("%s: keys %q", name, got)
		}
	}
	if r := apply(booted(t), state.Command{Time: t0, Rekey: &state.Rekey{Agent: "nobody", Key: "k", Next: "l", Heal: true}}); r.Kind != state.NotFound {
		t.Errorf("an agent that nobody knows: %+v", r)
	}
}

// A record from before keys were kept is healed by nobody, and its sessions,
// which show a certificate, are taken.
func TestAgentWithoutAKey(t *testing.T) {
	s := keyed(t)
	a := *s.Agents["a9"]
	a.KeyHash = ""
	s.Agents["a9"] = &a
	if r := apply(s, rekey("k1", "k2")); r.Kind != state.Foreign {
		t.Errorf("healed: %+v", r)
	}
	if r := apply(s, state.Command{Time: t0, Cloned: &state.Cloned{Agent: "a9", Key: "k1"}}); r.Kind != state.Conflict {
		t.Errorf("taken for a copy: %+v", r)
	}
	renewal := rekey("k1", "k2")
	renewal.Rekey.Heal = false
	must(t, s, renewal)
	if got := keys(s); got != "k1 k2" {
		t.Errorf("after a renewal: keys %q", got)
	}
}

func TestPastKeysAreBounded(t *testing.T) {
	s := keyed(t)
	for i := range 3 * fleet.MaxPastKeys {
		must(t, s, rekey(fmt.Sprint("k", i+1), fmt.Sprint("k", i+2)))
		must(t, s, confirm(fmt.Sprint("k", i+2)))
	}
	past := s.Agents["a9"].PastKeys
	if len(past) != fleet.MaxPastKeys || past[0] != fmt.Sprint("k", 3*fleet.MaxPastKeys) {
		t.Errorf("%d past keys, the newest is %s", len(past), past[0])
	}
}

// A copy that keeps coming is one event, and fills no log.
func TestCloneIsRecorded(t *testing.T) {
	s := keyed(t)
	clone := func(key string, after time.Duration) state.Result {
		return apply(s, state.Command{Time: t0.Add(after), By: "replica/r1", Cloned: &state.Cloned{
			Agent: "a9", Key: key, Addr: "192.0.2.9:4", Text: "an old key",
		}})
	}
	must(t, s, rekey("k1", "k2"))
	for _, own := range []string{"k1", "k2"} {
		if r := clone(own, 0); r.Kind != state.Conflict || s.Agents["a9"].Cloned != nil {
			t.Errorf("its own key %s: %+v", own, r)
		}
	}
	for i, want := range []struct {
		after time.Duration
		times int
	}{{time.Minute, 1}, {2 * time.Minute, 1}, {time.Hour, 2}} {
		if r := clone("kx", want.after); r.Kind != state.OK {
			t.Fatalf("%d: %+v", i, r)
		}
		if got := s.Agents["a9"].Cloned; got.Times != want.times || got.Addr != "192.0.2.9:4" || got.Text != "an old key" {
			t.Errorf("%d: %+v, want %d times", i, got, want.times)
		}
	}
	// Two holders at a time have no key that is wrong.
	if r := clone("", 2*time.Hour); r.Kind != state.OK || s.Agents["a9"].Cloned.Times != 3 {
		t.Errorf("without a key: %+v, %+v", r, s.Agents["a9"].Cloned)
	}
	admin := slices.DeleteFunc(slices.Clone(s.Audit.Admin), func(e state.AuditEntry) bool { return e.Action != "agent.cloned" || e.Refused != "" })
	if len(admin) != 3 {
		t.Errorf("%d entries in the audit log: %+v", len(admin), admin)
	}
}

// After a restore an agent is ahead of the state: a certificate that ends later
// than any that is known shows it. A copy's are older.
func TestAgentAheadOfARestoredState(t *testing.T) {
	end := t0.Add(time.Hour)
	for _, tc := range []struct {
		name string
		cmd  state.Command
		want state.Kind
		keys string
	}{
		{"it connects", state.Command{Confirm: &state.Confirm{Agent: "a9", Key: "k5", NotAfter: end.Add(time.Minute)}}, state.OK, "k5  k1,k0"},
		{"it heals", state.Command{Rekey: &state.Rekey{Agent: "a9", Key: "k5", Next: "k6", Heal: true, NotAfter: end.Add(time.Minute)}}, state.OK, "k5 k6 k1,k0"},
		{"a copy connects", state.Command{Confirm: &state.Confirm{Agent: "a9", Key: "k5", NotAfter: end}}, state.Foreign, "k1  k0"},
		{"a copy heals", state.Command{Rekey: &state.Rekey{Agent: "a9", Key: "k5", Next: "k6", Heal: true, NotAfter: end}}, state.Foreign, "k1  k0"},
		{"a copy with a past key", state.Command{Confirm: &state.Confirm{Agent: "a9", Key: "k0", NotAfter: end.Add(time.Minute)}}, state.PastKey, "k1  k0"},
		{"nothing was shown", state.Command{Rekey: &state.Rekey{Agent: "a9", Key: "k5", Next: "k6", Heal: true}}, state.Foreign, "k1  k0"},
		{"it renews over a session of before", state.Command{Rekey: &state.Rekey{Agent: "a9", Key: "k5", Next: "k6"}}, state.OK, "k5 k6 k1,k0"},
		{"a copy renews over a session of before", state.Command{Rekey: &state.Rekey{Agent: "a9", Key: "k0", Next: "k6"}}, state.PastKey, "k1  k0"},
		{"a session of before", state.Command{Cloned: &state.Cloned{Agent: "a9", Key: "k5"}}, state.Conflict, "k1  k0"},
		{"a copy's session of before", state.Command{Cloned: &state.Cloned{Agent: "a9", Key: "k0"}}, state.OK, "k1  k0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := keyed(t)
			a := *s.Agents["a9"]
			a.PastKeys, a.CertNotAfter = []string{"k0"}, end
			s.Agents["a9"] = &a
			s.Restore(t0, nil, "operator/admin")
			tc.cmd.Time = t0
			if r := apply(s, tc.cmd); r.Kind != tc.want || keys(s) != tc.keys {
				t.Errorf("%q (%s), keys %q; want %q, %q", r.Kind, r.Text, keys(s), tc.want, tc.keys)
			}
		})
	}
}
