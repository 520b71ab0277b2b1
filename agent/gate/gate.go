package gate

import (
	"fmt"
	"time"
)

// Limits are how long a gate looks. The zero value has the defaults.
type Limits struct {
	// Steady is how long all must be well, a minute by default.
	Steady time.Duration
	// Patience is how long something may be wrong, five minutes by default.
	Patience time.Duration
}

// Both defaults are longer than what a restart of a replica or of the container
// runtime takes, and short enough for somebody who waits for an upgrade.
const (
	DefaultSteady   = time.Minute
	DefaultPatience = 5 * time.Minute
)

// lasted is how long a session lasts that counts as one: a version that says
// something wrong loses its session right after the welcome.
const lasted = 10 * time.Second

// Event is something that happened to the agent.
type Event interface{ event() }

type (
	// Turned: the loop that everything goes through has turned; the checkpoint
	// was recovered before it first does. The gate decides only then.
	Turned struct{}
	// Runtime is what became of a call to the container runtime.
	Runtime struct {
		// Away: it could not be reached, which is not the agent's to change.
		Away bool
		// Err is what it answered, "" when all is well.
		Err string
	}
	// Session: a replica has welcomed the agent.
	Session struct{}
	// NoSession: a session has ended, or a try to have one.
	NoSession struct {
		// Err is what a replica answered, "" when nobody did or the answer was not
		// about this version of the agent.
		Err string
	}
)

func (Turned) event()    {}
func (Runtime) event()   {}
func (Session) event()   {}
func (NoSession) event() {}

// Verdict is what the gate knows; the zero value is that it goes on looking.
type Verdict struct {
	Passed bool
	// Failed is why the version must go, "" while it need not.
	Failed string
}

// Gate is one version's. Its only method is called by one goroutine at a time.
type Gate struct {
	limits Limits
	began  time.Time
	tried  bool // a replica was, or there is a session

	// since what time, zero when not:
	answering time.Time // the runtime answers as it should
	erring    time.Time // it answers with errors
	linked    time.Time // there is a session, or nobody to have one with
	session   time.Time // there is a session
	refused   time.Time // replicas answer and no session lasts

	runtime, replica string // the last errors of both
}

// New returns the gate of an agent that starts now.
func New(now time.Time, l Limits) *Gate {
	if l.Steady <= 0 {
		l.Steady = DefaultSteady
	}
	if l.Patience <= 0 {
		l.Patience = DefaultPatience
	}
	return &Gate{limits: l, began: now}
}

// Step takes an event in and returns the verdict. After Passed or Failed there
// is nothing more to ask; an agent that cannot be replaced may ask on.
func (g *Gate) Step(now time.Time, ev Event) Verdict {
	switch ev := ev.(type) {
	case Runtime:
		g.called(now, ev)
	case Session:
		g.tried = true
		begin(&g.session, now)
		begin(&g.linked, now)
	case NoSession:
		g.missed(now, ev)
	case Turned:
		return g.judge(now)
	}
	return Verdict{}
}

func (g *Gate) called(now time.Time, r Runtime) {
	switch {
	case r.Away:
		g.answering, g.erring = time.Time{}, time.Time{}
	case r.Err != "":
		g.runtime, g.answering = r.Err, time.Time{}
		begin(&g.erring, now)
	default:
		g.erring = time.Time{}
		begin(&g.answering, now)
	}
}

func (g *Gate) missed(now time.Time, n NoSession) {
	g.settle(now)
	g.tried, g.session = true, time.Time{}
	if n.Err != "" {
		g.replica = n.Err
		begin(&g.refused, now)
	}
	if g.refused.IsZero() {
		begin(&g.linked, now)
	} else {
		g.linked = time.Time{}
	}
}

// settle forgets refusals before a session that has lasted.
func (g *Gate) settle(now time.Time) {
	if !g.session.IsZero() && now.Sub(g.session) >= min(lasted, g.limits.Steady) {
		g.refused = time.Time{}
	}
}

func (g *Gate) judge(now time.Time) Verdict {
	g.settle(now)
	over := func(since time.Time, d time.Duration) bool { return !since.IsZero() && now.Sub(since) >= d }
	switch l := g.limits; {
	case over(g.answering, l.Steady) && over(g.linked, l.Steady) && g.refused.IsZero():
		return Verdict{Passed: true}
	case over(g.refused, l.Patience):
		return Verdict{Failed: fmt.Sprintf("replicas answer, and in %v no session came of it: %s", l.Patience, g.replica)}
	case over(g.erring, l.Patience):
		return Verdict{Failed: fmt.Sprintf("the container runtime has answered with errors for %v: %s", l.Patience, g.runtime)}
	case !g.tried && over(g.began, l.Patience):
		return Verdict{Failed: fmt.Sprintf("in %v it has not tried to reach a replica", l.Patience)}
	}
	return Verdict{}
}

// begin notes when something began, unless it has begun before.
func begin(since *time.Time, now time.Time) {
	if since.IsZero() {
		*since = now
	}
}
