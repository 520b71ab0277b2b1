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
	// AgentUp: an agent's session is established, or this leader hears of it for
	// the first time. A newer session replaces an older one of the same agent.
	AgentUp struct {
		Agent    fleet.AgentID
		Session  uint64
		Hostname string
		Capacity fleet.Capacity
		// Boot is the machine's boot id and Epoch the agent's own count of its
		// sessions, as far as it tells them.
		Boot  string
		Epoch uint64
		// Key is the hash of the key that it has shown, empty where none is known;
		// Remote is where it comes from.
		Key, Remote string
	}
	// AgentDown: the session has ended. Seen is when the agent was last heard
	// of, where that is known: a link that was cut is noticed later.
	AgentDown struct {
		Agent   fleet.AgentID
		Session uint64
		Seen    time.Time
	}
	// Answered: the agent has answered Ask, so it lives.
	Answered struct {
		Agent   fleet.AgentID
		Session uint64
	}
	// Leave: the machine's owner wants it to leave the fleet. Agents say it again
	// until they are gone.
	Leave struct {
		Agent   fleet.AgentID
		Session uint64
		Grace   time.Duration // the longest that a task may take; 0: its own
	}
	// Pull: the agent holds this generation and wants what differs. It is kept
	// until there is something.
	Pull struct {
		Agent      fleet.AgentID
		Session    uint64
		Generation uint64
		Full       bool
		// Stamp, when not 0, is to be echoed at once. CaughtUp: all updates that
		// had waited for this session are acknowledged.
		Stamp    uint64
		CaughtUp bool
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
	// Subscribe connects a built-in framework. Standing roles are offered
	// anything; the others wait for demands.
	Subscribe struct {
		Framework fleet.FrameworkID
		Standing  []fleet.Role
	}
	// Register connects an outside framework, for the first time or again, and
	// puts its description in the place of the old one. It is offered anything
	// in its roles, suppressed ones left out. A newer connection replaces an
	// older one. By is who asked.
	Register struct {
		Info       fleet.FrameworkInfo
		Suppressed []fleet.Role
		Conn       uint64
		By         string
	}
	// UpdateFramework changes the description of a framework that is connected.
	UpdateFramework struct {
		Info       fleet.FrameworkInfo
		Suppressed []fleet.Role
		By         string
	}
	// Unsubscribe: the framework's connection is gone, and its offers with it.
	// Its tasks live on for its failover time-out. Conn is that of Register, 0
	// for built-in frameworks.
	Unsubscribe struct {
		Framework fleet.FrameworkID
		Conn      uint64
	}
	// Teardown ends a framework and all its tasks.
	Teardown struct {
		Framework fleet.FrameworkID
		By        string
	}
	// Suppress ends a framework's standing demand in roles, Revive restores it
	// and ends its filters there; in all its roles when none are named.
	Suppress struct {
		Framework fleet.FrameworkID
		Roles     []fleet.Role
	}
	// Revive is the opposite of Suppress.
	Revive struct {
		Framework fleet.FrameworkID
		Roles     []fleet.Role
	}
	// Kill asks for the end of a task. Without a Grace it is the task's own.
	Kill struct {
		Framework fleet.FrameworkID
		Task      fleet.TaskID
		Foreign   string
		Agent     fleet.AgentID
		Grace     *time.Duration
		By        string
	}
	// Acknowledge: the framework has an update; the next one may come.
	Acknowledge struct {
		Framework fleet.FrameworkID
		Task      fleet.TaskID
		Update    fleet.UpdateID
	}
	// AnswerInverse is what a framework says to inverse offers. It is noted, and
	// nothing else: the operator decides.
	AnswerInverse struct {
		Framework fleet.FrameworkID
		Offers    []fleet.OfferID
		Accept    bool
	}
	// Demands replaces what a framework waits for in one role.
	Demands struct {
		Framework fleet.FrameworkID
		Role      fleet.Role
		Demands   []fleet.Demand
	}
	// Accept uses offers of one agent, operation by operation. What is left of
	// them is free again, but for the filters. Create says that the tasks are
	// new; the built-in framework places submitted ones.
	Accept struct {
		Framework  fleet.FrameworkID
		Offers     []fleet.OfferID
		Operations []Operation
		Filters    *fleet.Filters
		Create     bool
		By         string // who asked, for the audit log
	}
	// Operation launches tasks, each by itself or as a group, or changes
	// reservations.
	Operation struct {
		Launch []fleet.Launch
		// Group, when not empty, names the tasks as a group: all are launched or
		// none, and when one fails, all end.
		Group   string
		Convert *Conversion
	}
	// Conversion reserves resources, or ends their reservation.
	Conversion struct{ From, To fleet.Resources }
	// Decline gives offers back.
	Decline struct {
		Framework fleet.FrameworkID
		Offers    []fleet.OfferID
		Filters   *fleet.Filters
	}
	// Reconcile asks for the state of tasks; of all of the framework's tasks
	// that live or have unacknowledged updates when the list is empty.
	Reconcile struct {
		Framework fleet.FrameworkID
		Tasks     []Known
	}
	// Known is a task as its framework remembers it. Agent may be empty.
	Known struct {
		Task    fleet.TaskID
		Foreign string
		Agent   fleet.AgentID
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
func (Answered) event()        {}
func (Leave) event()           {}
func (Pull) event()            {}
func (Report) event()          {}
func (CapacityChanged) event() {}
func (Subscribe) event()       {}
func (Register) event()        {}
func (UpdateFramework) event() {}
func (Teardown) event()        {}
func (Suppress) event()        {}
func (Revive) event()          {}
func (Kill) event()            {}
func (Acknowledge) event()     {}
func (AnswerInverse) event()   {}
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
		// Foreign is what the framework calls the task, where it does.
		Foreign string
		Agent   fleet.AgentID
		// ID, when not empty, has to be acknowledged; until then the update comes
		// again.
		ID fleet.UpdateID
		// Unreachable is since when the agent does not answer, where that is so.
		Unreachable time.Time
	}
	// Registered answers Register: the framework is connected. Refused, when not
	// empty, says why it is not.
	Registered struct {
		Framework fleet.FrameworkID
		Conn      uint64
		Refused   string
	}
	// Dismiss ends a framework's connection: another took its place, or it was
	// torn down.
	Dismiss struct {
		Framework fleet.FrameworkID
		Conn      uint64
		Text      string
	}
	// InverseOffer asks a framework to give back what it holds on an agent.
	InverseOffer struct {
		Framework fleet.FrameworkID
		Offer     fleet.OfferID
		Request   allocator.Request
	}
	// RescindInverse takes an inverse offer back.
	RescindInverse struct {
		Framework fleet.FrameworkID
		Offer     fleet.OfferID
	}
	// Failure tells a framework that an agent was lost.
	Failure struct {
		Framework fleet.FrameworkID
		Agent     fleet.AgentID
	}
	// Ask wants an answer of an agent; see Answered.
	Ask struct {
		Agent   fleet.AgentID
		Session uint64
	}
	// Resync has an agent say again what it holds.
	Resync struct {
		Agent   fleet.AgentID
		Session uint64
	}
	// Disconnect ends an agent's session.
	Disconnect struct {
		Agent   fleet.AgentID
		Session uint64
		Cause   Cause
	}
)

func (Propose) action()        {}
func (Offer) action()          {}
func (Registered) action()     {}
func (Dismiss) action()        {}
func (InverseOffer) action()   {}
func (RescindInverse) action() {}
func (Failure) action()        {}
func (Rescind) action()        {}
func (Assign) action()         {}
func (Ack) action()            {}
func (Update) action()         {}
func (Ask) action()            {}
func (Resync) action()         {}
func (Disconnect) action()     {}

// Cause says why a session is ended.
type Cause string

const (
	CauseRevoked  Cause = "revoked"
	CauseReplaced Cause = "replaced"
	CauseUnknown  Cause = "unknown_agent"
	CauseCloned   Cause = "cloned"
)

// Config holds the cycle's times; zero values mean the defaults.
type Config struct {
	// OfferTimeout ends an offer that nobody answered; 30 s by default, never
	// for ever (Mesos's default, for ever, is what its users complain of).
	OfferTimeout time.Duration
	// UnreachableAfter is how long an agent may be away before its tasks
	// become unreachable; fleet.MinLostAfter by default.
	UnreachableAfter time.Duration
	// Interval between allocation rounds that nothing else starts; 1 s.
	Interval time.Duration
	// Patience is how long a demand waits before tasks are preempted for it;
	// 5 s by default. Negative: never.
	Patience time.Duration
	// Allocator holds the fleet's policy.
	Allocator allocator.Options
}

func (c Config) withDefaults() Config {
	if c.OfferTimeout == 0 {
		c.OfferTimeout = 30 * time.Second
	}
	if c.UnreachableAfter == 0 {
		c.UnreachableAfter = fleet.MinLostAfter
	}
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	if c.Patience == 0 {
		c.Patience = 5 * time.Second
	}
	return c
}
