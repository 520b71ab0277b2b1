package net_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/test/e2e/bed"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/transport"
)

// setting reads a number that may be set from outside.
func setting(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a number", name, text)
	}
	return n
}

// TestTheAPIIsLinearizable has clients use the API while replicas are killed,
// paused and cut off, and searches for an order of all calls that explains every
// answer. TENDER_CHAOS_SECONDS is how long.
func TestTheAPIIsLinearizable(t *testing.T) {
	t.Parallel()
	length := time.Duration(setting(t, "TENDER_CHAOS_SECONDS", 30)) * time.Second
	b := bed.Start(t, bed.Config{Replicas: 3})
	w := &world{bed: b, Fleet: harness.NewFleetOn(t, b, 3)}
	c := &chaos{world: w, began: time.Now(), objects: map[string]*object{}}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var callers sync.WaitGroup
	for i := range 8 {
		order := rand.Perm(3)
		api := w.ClientOf(t, w.Replicas[order[0]], w.Replicas[order[1]], w.Replicas[order[2]])
		callers.Go(func() { (&caller{chaos: c, api: api, number: i}).run(ctx) })
	}
	faults := c.disturb(ctx, t)
	callers.Wait()
	w.heal(t)
	w.agreed(t)
	c.last(t, w.Client)
	c.check(t)
	t.Logf("%v; %d objects, %d calls of which %d have an unknown outcome; %d calls were refused", faults, len(c.objects), c.calls, c.unknown, c.refused)
	if c.calls < 20*int(length.Seconds()) {
		t.Errorf("only %d calls were made in %v", c.calls, length)
	}
}

// chaos is what the callers share.
type chaos struct {
	*world
	began time.Time

	mu                      sync.Mutex
	objects                 map[string]*object // by name
	open                    []*object          // those that calls are still made about
	made                    int
	calls, unknown, refused int
}

// object is something with a history.
type object struct {
	name, kind string
	history    []porcupine.Operation
	ids        map[string]string // of the tasks that are known
	begun      int
	line       string // of a token
	id         string
}

const (
	openObjects = 6  // that are in use at a time
	perObject   = 24 // calls, which bounds the search
	callTime    = 6 * time.Second
)

// now is the time of a history.
func (c *chaos) now() int64 { return int64(time.Since(c.began)) }

// add records a call.
func (c *chaos) add(o *object, number int, begin int64, call in, got out) {
	op := porcupine.Operation{ClientId: number, Input: call, Call: begin, Output: got, Return: c.now()}
	if got.unknown {
		op.Return = math.MaxInt64
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o.history = append(o.history, op)
	c.calls++
	if got.unknown {
		c.unknown++
	}
}

// pick returns an object to use, or the name of one that is to be made.
func (c *chaos) pick() (o *object, kind, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = slices.DeleteFunc(c.open, func(o *object) bool { return o.begun >= perObject })
	if len(c.open) < openObjects {
		c.made++
		kind = []string{"tasks", "token", "quota"}[c.made%3]
		return nil, kind, fmt.Sprintf("%s%d", kind, c.made)
	}
	o = c.open[rand.IntN(len(c.open))]
	o.begun++
	return o, o.kind, o.name
}

func (c *chaos) opened(o *object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[o.name] = o
	c.open = append(c.open, o)
}

// caller makes one call after another.
type caller struct {
	*chaos
	api    *client.Client
	number int
	n      int
}

func (k *caller) run(ctx context.Context) {
	for ctx.Err() == nil {
		o, kind, name := k.pick()
		// A call that has begun is not broken off: its outcome would be unknown.
		callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
		if o == nil {
			o = &object{name: name, kind: kind, ids: map[string]string{}}
			if kind != "token" || k.make(callCtx, o) {
				k.opened(o)
			}
		} else {
			map[string]func(context.Context, *object){"tasks": k.tasks, "token": k.token, "quota": k.quota}[kind](callCtx, o)
		}
		cancel()
		time.Sleep(rand.N(10 * time.Millisecond))
	}
}

// done records a write, unless nothing can have come of it.
func (k *caller) done(o *object, begin int64, call in, err error) {
	var p *client.Problem
	switch {
	case err == nil:
		k.add(o, k.number, begin, call, out{value: done})
	case errors.As(err, &p) && p.Code == client.CodeNotFound:
		k.add(o, k.number, begin, call, out{value: absent})
	case harmless(err):
		k.mu.Lock()
		k.refused++
		k.mu.Unlock()
	default:
		k.add(o, k.number, begin, call, out{unknown: true})
	}
}

// harmless reports whether nothing can have come of a write that failed so.
func harmless(err error) bool {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return p.Code != client.CodeUnknown && p.Code != client.CodeTimeout && p.Code != client.CodeInternal
	}
	var u *client.UnreachableError
	return errors.As(err, &u) && !u.Unknown
}

// tell records a read, unless it failed.
func (k *caller) tell(o *object, begin int64, call in, value string, err error) {
	var p *client.Problem
	switch {
	case err == nil:
		k.add(o, k.number, begin, call, out{value: value})
	case errors.As(err, &p) && p.Code == client.CodeNotFound:
		k.add(o, k.number, begin, call, out{value: absent})
	}
}

func (k *caller) tasks(ctx context.Context, o *object) {
	k.n++
	name := fmt.Sprintf("t%d-%d", k.number, k.n)
	k.mu.Lock()
	ids := slices.Collect(func(yield func([2]string) bool) {
		for name, id := range o.ids {
			if !yield([2]string{name, id}) {
				return
			}
		}
	})
	k.mu.Unlock()
	choice := rand.IntN(5)
	if len(ids) == 0 && choice > 1 || len(ids) >= 4 && choice == 0 {
		choice = 1
	}
	begin := k.now()
	switch choice {
	case 0, 2:
		s := waits(name)
		s.Role = o.name
		task, err := k.api.Submit(ctx, s)
		if err == nil {
			k.mu.Lock()
			o.ids[name] = task.ID
			k.mu.Unlock()
		}
		k.done(o, begin, in{"submit", name}, err)
	case 3:
		x := ids[rand.IntN(len(ids))]
		_, err := k.api.StopTask(ctx, x[1], client.Stop{})
		k.done(o, begin, in{"stop", x[0]}, err)
	case 4:
		x := ids[rand.IntN(len(ids))]
		task, err := k.api.Task(ctx, x[1])
		k.tell(o, begin, in{"get", x[0]}, fmt.Sprint(runs(task)), err)
	default:
		k.look(ctx, o)
	}
}

// runs reports whether a task has not been told to stop.
func runs(t client.Task) bool { return !t.Terminal() && !t.Stopping }

// look reads a whole object.
func (k *caller) look(ctx context.Context, o *object) {
	begin := k.now()
	switch o.kind {
	case "tasks":
		list, err := k.api.Tasks(ctx, client.TaskFilter{All: true, Role: o.name})
		all := map[string]bool{}
		for _, t := range list.Tasks {
			for all[t.Name] || hasKey(all, t.Name) { // twice is never right
				t.Name += "*"
			}
			all[t.Name] = runs(t)
		}
		k.tell(o, begin, in{what: "list"}, lineUp(all), err)
	case "token":
		list, err := k.api.Tokens(ctx)
		value := absent
		for _, t := range list {
			if t.ID == o.id {
				value = fmt.Sprint(t.Uses)
			}
		}
		k.tell(o, begin, in{what: "look"}, value, err)
	case "quota":
		list, err := k.api.Roles(ctx)
		value := ""
		for _, r := range list {
			if r.Role == o.name {
				value = string(r.Limit["cpus"])
			}
		}
		k.tell(o, begin, in{what: "read"}, value, err)
	}
}

func hasKey(m map[string]bool, key string) bool {
	_, ok := m[key]
	return ok
}

// make makes a token. One whose line is not known is of no use.
func (k *caller) make(ctx context.Context, o *object) bool {
	tok, err := k.api.CreateToken(ctx, client.CreateToken{Uses: tokenUses, TTL: client.Duration(time.Hour)})
	o.id, o.line = tok.ID, tok.Line
	return err == nil
}

func (k *caller) token(ctx context.Context, o *object) {
	begin := k.now()
	switch choice := rand.IntN(20); {
	case choice < 6:
		k.join(ctx, o)
	case choice < 7:
		k.done(o, begin, in{what: "delete"}, k.api.DeleteToken(ctx, o.id))
	default:
		k.look(ctx, o)
	}
}

// join has a machine join.
func (k *caller) join(ctx context.Context, o *object) {
	begin, call := k.now(), in{what: "join"}
	err := k.enrol(ctx, o.line)
	var r *enroll.Refusal
	switch {
	case err == nil:
		k.add(o, k.number, begin, call, out{value: done})
	case errors.As(err, &r) && r.Code == enroll.CodeTokenUsed:
		k.add(o, k.number, begin, call, out{value: usedUp})
	case errors.As(err, &r) && r.Code == enroll.CodeTokenUnknown:
		k.add(o, k.number, begin, call, out{value: absent})
	default:
		k.add(o, k.number, begin, call, out{unknown: true})
	}
}

func (k *caller) enrol(ctx context.Context, text string) error {
	line, err := pki.ParseJoinLine(text)
	if err != nil {
		return err
	}
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	req, err := enroll.NewRequest(line, key, fmt.Sprintf("m%d", k.number))
	if err != nil {
		return err
	}
	conn, err := k.udp("o1")
	if err != nil {
		return err
	}
	_, err = transport.Enrol(ctx, transport.DialerConfig{Conn: conn, DialTCP: k.Dial()}, line, req)
	return err
}

func (k *caller) quota(ctx context.Context, o *object) {
	k.n++
	begin := k.now()
	switch choice := rand.IntN(10); {
	case choice < 3:
		value := fmt.Sprint(1 + k.number*1000 + k.n)
		_, err := k.api.SetQuota(ctx, client.SetQuota{Quotas: []client.Quota{{Role: o.name, Limit: client.Quantities{"cpus": client.Amount(value)}}}})
		k.done(o, begin, in{"set", value}, err)
	case choice < 4:
		k.done(o, begin, in{what: "clear"}, k.api.ClearQuota(ctx, o.name))
	default:
		k.look(ctx, o)
	}
}

// last reads every object when all is well again.
func (c *chaos) last(t *testing.T, api *client.Client) {
	t.Helper()
	k := &caller{chaos: c, api: api, number: 99}
	for _, o := range c.objects {
		k.look(t.Context(), o)
	}
}

// check searches for the order of each object's calls.
func (c *chaos) check(t *testing.T) {
	t.Helper()
	for _, o := range c.objects {
		switch porcupine.CheckOperationsTimeout(models[o.kind], o.history, 20*time.Second) {
		case porcupine.Ok:
		case porcupine.Unknown:
			t.Errorf("%s: no answer in time over %d calls", o.name, len(o.history))
		case porcupine.Illegal:
			slices.SortFunc(o.history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
			var text strings.Builder
			for _, op := range o.history {
				end := "?"
				if op.Return != math.MaxInt64 {
					end = time.Duration(op.Return).Round(time.Microsecond).String()
				}
				fmt.Fprintf(&text, "\n  %v to %s by %d: %s", time.Duration(op.Call).Round(time.Microsecond), end, op.ClientId, describe(op.Input, op.Output))
			}
			t.Errorf("%s: no order of the calls explains the answers:%s", o.name, text.String())
		}
	}
}

// disturb kills, pauses and cuts off replicas, one fault at a time, until ctx
// ends.
func (c *chaos) disturb(ctx context.Context, t *testing.T) map[string]int {
	t.Helper()
	leader := func() *harness.Replica {
		for _, r := range c.Replicas {
			if doc := see(t, r); doc.Leader == r.ID && doc.Term > 0 {
				return r
			}
		}
		return c.Replicas[rand.IntN(3)]
	}
	faults := []struct {
		name string
		do   func(x, y *harness.Replica)
	}{
		{"leader killed", func(*harness.Replica, *harness.Replica) { leader().Kill(t) }},
		{"replica killed", func(x, _ *harness.Replica) { x.Kill(t) }},
		{"two killed", func(x, y *harness.Replica) { x.Kill(t); y.Kill(t) }},
		{"leader paused", func(*harness.Replica, *harness.Replica) { leader().Process().Pause(t) }},
		{"replica paused", func(x, _ *harness.Replica) { x.Process().Pause(t) }},
		{"leader apart", func(*harness.Replica, *harness.Replica) {
			l := leader()
			for _, r := range c.others(l) {
				must(t, c.bed.Part(t.Context(), l.Node, r.Node))
			}
		}},
		{"leader cut", func(*harness.Replica, *harness.Replica) { must(t, c.bed.Cut(t.Context(), leader().Node)) }},
		{"pair apart", func(x, y *harness.Replica) { must(t, c.bed.Part(t.Context(), x.Node, y.Node)) }},
		{"one way", func(x, y *harness.Replica) { must(t, c.bed.Drop(t.Context(), loss{From: x.Node, To: y.Node})) }},
		{"lossy", func(x, _ *harness.Replica) {
			must(t, c.bed.Drop(t.Context(), loss{From: x.Node, Percent: 20}, loss{To: x.Node, Percent: 20}))
		}},
	}
	counts := map[string]int{}
	for i := rand.IntN(len(faults)); ; i++ {
		rest(ctx, time.Second+rand.N(time.Second))
		if ctx.Err() != nil {
			return counts
		}
		f := faults[i%len(faults)]
		order := rand.Perm(3)
		f.do(c.Replicas[order[0]], c.Replicas[order[1]])
		counts[f.name]++
		rest(ctx, time.Second+rand.N(1500*time.Millisecond))
		c.heal(t)
	}
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
