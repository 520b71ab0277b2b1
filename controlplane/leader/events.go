package leader

import (
	"time"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Event is something that happened: a message, a commit, time passing.
type Event interface{ event() }

type (
	// AgentUp: an agent's session is established. A newer session replaces an
	// older one of the same agent.
	AgentUp struct {
		Agent    fleet.AgentID
		Session  uint64
		Hostname string
		Capacity fleet.Capacity
	}
	// AgentDown: the session has ended. Seen is when the agent was last heard
	// of, where that is known: a link that was cut is noticed later.
	AgentDown struct {
		Agent   fleet.AgentID
		Session uint64
		Seen    time.Time
	}
	// Pull: the agent holds this generation and wants what differs. It is kept
	// until there is something.
	Pull struct {
		Agent      fleet.AgentID
		Session    uint64
		Generation uint64
		Full       bool
	}
	// Report carries status updates of an agent.
	Report struct {
		Agent   fleet.AgentID
		Session uint64
		Updates []fleet.StatusUpdate
	}
	// CapacityChanged: the agent declares other totals or devices.
	CapacityChanged struct {
		Agent    fleet.AgentID
		Session  uint64
		Hostname string
		Capacity fleet.Capacity
	}
	// Subscribe connects a framework. Standing roles are offered anything;
	// the others wait for demands.
	Subscribe struct {
		Framework fleet.FrameworkID
		Standing  []fleet.Role
	}
	// Unsubscribe: the framework's connection is gone, and its offers with it.
	Unsubscribe struct{ Framework fleet.FrameworkID }
	// Demands replaces what a framework waits for in one role.
	Demands struct {
		Framework fleet.FrameworkID
		Role      fleet.Role
		Demands   []fleet.Demand
	}
	// Accept uses offers of one agent for tasks. What is left of them is
	// free again. Create says that the tasks are new; the built-in framework
	// places submitted ones.
	Accept struct {
		Framework fleet.FrameworkID
		Offers    []fleet.OfferID
		Launches  []fleet.Launch
		Create    bool
	}
	// Decline gives offers back.
	Decline struct {
		Framework fleet.FrameworkID
		Offers    []fleet.OfferID
		Filters   *fleet.Filters
	}
	// Reconcile asks for the state of tasks; of all of the framework's live
	// tasks when the list is empty.
	Reconcile struct {
		Framework fleet.FrameworkID
		Tasks     []fleet.TaskID
	}
	// Committed is one entry of the log, applied.
	Committed struct {
		Index    uint64
		Commands []state.Command
	}
	// Tick: time passes. Once a second is right.
	Tick struct{}
)

func (AgentUp) event()         {}
func (AgentDown) event()       {}
func (Pull) event()            {}
func (Report) event()          {}
func (CapacityChanged) event() {}
func (Subscribe) event()       {}
func (Unsubscribe) event()     {}
func (Demands) event()         {}
func (Accept) event()          {}
func (Decline) event()         {}
func (Reconcile) event()       {}
func (Committed) event()       {}
func (Tick) event()            {}

// Action is something the shell is to do. Actions are performed in order.
type Action interface{ action() }

type (
	// Propose asks the trio to commit a command. A command that is refused or
	// lost needs no answer: the leader learns from Committed, and time.
	Propose struct{ Command state.Command }
	// Offer makes offers to a framework.
	Offer struct {
		Framework fleet.FrameworkID
		Offers    []fleet.Offer
	}
	// Rescind withdraws an offer.
	Rescind struct {
		Framework fleet.FrameworkID
		Offer     fleet.OfferID
	}
	// Assign sends an agent what differs.
	Assign struct {
		Agent   fleet.AgentID
		Session uint64
		Desired fleet.Desired
	}
	// Ack tells an agent that an update is committed. The agent may forget an
	// ended task once it holds the generation.
	Ack struct {
		Agent      fleet.AgentID
		Session    uint64
		Task       fleet.TaskID
		Update     fleet.UpdateID
		Generation uint64
	}
	// Update tells a framework of a task's state.
	Update struct {
		Framework fleet.FrameworkID
		Status    fleet.Status
	}
	// Disconnect ends an agent's session.
	Disconnect struct {
		Agent   fleet.AgentID
		Session uint64
		Cause   Cause
	}
)

func (Propose) action()    {}
func (Offer) action()      {}
func (Rescind) action()    {}
func (Assign) action()     {}
func (Ack) action()        {}
func (Update) action()     {}
func (Disconnect) action() {}

// Cause says why a session is ended.
type Cause string

const (
	CauseRevoked  Cause = "revoked"
	CauseReplaced Cause = "replaced"
	CauseUnknown  Cause = "unknown_agent"
)

// Config holds the cycle's times; zero values mean the defaults.
type Config struct {
	// OfferTimeout ends an offer that nobody answered; 30 s by default, never
	// for ever (Mesos's default, for ever, is what its users complain of).
	OfferTimeout time.Duration
	// UnreachableAfter is how long an agent may be away before its tasks
	// become unreachable; 75 s by default (Mesos's 5 pings of 15 s).
	UnreachableAfter time.Duration
	// Interval between allocation rounds that nothing else starts; 1 s.
	Interval time.Duration
	// Allocator holds the fleet's policy.
	Allocator allocator.Options
}

func (c Config) withDefaults() Config {
	if c.OfferTimeout == 0 {
		c.OfferTimeout = 30 * time.Second
	}
	if c.UnreachableAfter == 0 {
		c.UnreachableAfter = 75 * time.Second
	}
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	return c
}
