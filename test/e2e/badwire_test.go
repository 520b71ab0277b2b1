package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/e2e/harness"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// impostor speaks to a replica with an agent's certificate, and says what it
// likes.
type impostor struct {
	t       *testing.T
	session transport.Session
	control transport.Stream
}

func newImpostor(t *testing.T, f *harness.Fleet, a *harness.Agent) *impostor {
	t.Helper()
	cred, err := pki.LoadDir(a.State + "/pki")
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := transport.NewDialer(transport.DialerConfig{Holder: pki.NewHolder(cred)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialer.Close() })
	i := &impostor{t: t}
	if i.session, err = dialer.Dial(t.Context(), f.Leader(t).Addr, transport.ALPNAgent, nil); err != nil {
		t.Fatal(err)
	}
	if i.control, err = i.session.Open(t.Context(), transport.StreamControl); err != nil {
		t.Fatal(err)
	}
	_ = i.control.SetDeadline(time.Now().Add(20 * time.Second))
	return i
}

// hello introduces the impostor and returns the answer.
func (i *impostor) hello(id string) wire.Message {
	i.t.Helper()
	c := wire.NewConn(i.control, wire.MaxControl)
	if err := c.Send(wire.Hello{Capability: wire.Capability, Agent: fleet.AgentID(id), Hostname: id, Version: "impostor"}); err != nil {
		i.t.Fatal(err)
	}
	msg, err := c.Recv()
	if err != nil {
		i.t.Fatal(err)
	}
	return msg
}

// write sends raw bytes on the control stream.
func (i *impostor) write(data []byte) {
	i.t.Helper()
	if _, err := i.control.Write(data); err != nil {
		i.t.Fatal(err)
	}
}

// thrownOut waits for the end of the session, by the replica and with a text.
func (i *impostor) thrownOut(want ...string) {
	i.t.Helper()
	select {
	case <-i.session.Context().Done():
	case <-time.After(20 * time.Second):
		i.t.Fatal("the replica keeps the session")
	}
	var closed *transport.CloseError
	if err := context.Cause(i.session.Context()); !errors.As(err, &closed) || !closed.Remote {
		i.t.Fatalf("the session ended with %v", err)
	}
	wantText(i.t, closed.Reason, want...)
}

// frame is a message with its length before it.
func frame(t *testing.T, m wire.Message) []byte {
	t.Helper()
	body, err := wire.Append(make([]byte, 4), m)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(body, uint32(len(body)-4))
	return body
}

func TestAReplicaThrowsOutWhoBreaksTheProtocolAndServesTheOthers(t *testing.T) {
	t.Parallel()
	f, honest := withAgent(t, 1)
	id := f.Submit(t, client.Submit{Command: untilTouched()})
	f.Running(t, id)
	other := f.Join(t, harness.AgentOptions{})
	since := honest.Connected(t).Since
	hello := frame(t, wire.Hello{Capability: wire.Capability, Agent: fleet.AgentID(other.ID), Hostname: other.ID})
	reading := frame(t, wire.Readings{Readings: fleet.Readings{Time: time.Now()}})

	for _, c := range []struct {
		name string
		do   func(i *impostor)
		want []string
	}{
		{"another agent's name", func(i *impostor) {
			msg := i.hello(honest.ID)
			r, ok := msg.(wire.Refusal)
			if !ok || r.Code != wire.RefusedWrongIdentity {
				i.t.Fatalf("the answer is %+v", msg)
			}
			wantText(i.t, r.Text, "agent/"+other.ID, honest.ID, "each agent needs its own certificate")
		}, []string{"certificate"}},
		{"a frame over the limit before anything else", func(i *impostor) { i.write([]byte{0xff, 0xff, 0xff, 0xff}) }, []string{"size limit"}},
		{"a hello over its limit", func(i *impostor) { i.write(binary.BigEndian.AppendUint32(nil, wire.MaxHello+1)) }, []string{"size limit"}},
		{"a frame over the limit later on", func(i *impostor) {
			i.welcomed(other.ID)
			i.write(binary.BigEndian.AppendUint32(nil, wire.MaxControl+1))
		}, []string{"size limit"}},
		{"a frame cut short", func(i *impostor) {
			i.write(hello[:len(hello)-3])
			_ = i.control.Close()
		}, []string{"unexpected EOF"}},
		{"a frame cut short later on", func(i *impostor) {
			i.welcomed(other.ID)
			i.write(reading[:len(reading)/2])
			_ = i.control.Close()
		}, []string{"unexpected EOF"}},
		{"bytes that are no message", func(i *impostor) { i.write(append([]byte{0, 0, 0, 8}, "notproto"...)) }, []string{"hello"}},
		{"something else than a hello", func(i *impostor) { i.write(reading) }, []string{"instead of hello"}},
		{"what only a replica may say", func(i *impostor) {
			i.welcomed(other.ID)
			i.write(frame(i.t, wire.Goaway{Text: "go"}))
		}, []string{"must not send"}},
		{"the end of the control stream", func(i *impostor) {
			i.welcomed(other.ID)
			_ = i.control.Close()
		}, []string{"closed its control stream"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			unchanged(t, f, func() {
				i := newImpostor(t, f, other)
				c.do(i)
				i.thrownOut(c.want...)
				other.Await(t, "it is gone", func(d client.Agent) bool { return d.State == client.AgentDisconnected })
			})
		})
	}
	t.Run("a report about another agent's task", func(t *testing.T) {
		unchanged(t, f, func() {
			i := newImpostor(t, f, other)
			i.welcomed(other.ID)
			i.write(frame(t, wire.Report{Updates: []fleet.StatusUpdate{{ID: "x", Seq: 3, Status: fleet.Status{
				Task: fleet.TaskID(id), State: fleet.TaskFailed, Time: time.Now(),
			}}}}))
			i.heeded()
			_ = i.session.Close(transport.CodeOK, "")
			other.Await(t, "it is gone", func(d client.Agent) bool { return d.State == client.AgentDisconnected })
		})
	})
	if now := honest.Connected(t); !now.Since.Equal(since) {
		t.Error("the honest agent lost its session")
	}
	end(t, honest.Runtime, id)
	if task := f.End(t, id); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
}

// heeded waits until a leader has dealt with all that was written: it answers a
// pull after what came before it.
func (i *impostor) heeded() {
	i.t.Helper()
	i.write(frame(i.t, wire.Pull{Full: true, Stamp: 7}))
	c := wire.NewConn(i.control, wire.MaxControl)
	for {
		msg, err := c.Recv()
		if err != nil {
			i.t.Fatal(err)
		}
		if d, ok := msg.(wire.DesiredSet); ok && d.Echo == 7 {
			return
		}
	}
}

func (i *impostor) welcomed(id string) {
	i.t.Helper()
	if msg, ok := i.hello(id).(wire.Welcome); !ok {
		i.t.Fatalf("the answer is %+v", msg)
	}
}

func TestARevokedAgentIsThrownOutAndCannotComeBack(t *testing.T) {
	t.Parallel()
	f, a := withAgent(t, 1)
	id := f.Submit(t, client.Submit{Command: []string{"sleep", "1000"}})
	f.Running(t, id)
	pid := a.Runtime.PID(t, id)
	doc, err := f.RevokeAgent(t.Context(), a.ID)
	if err != nil || doc.State != client.AgentRevoked {
		t.Fatalf("%+v, error %v", doc, err)
	}
	if task := f.End(t, id); task.State != "TASK_GONE_BY_OPERATOR" {
		t.Error(harness.Tell(task))
	}
	a.Process().Says(t, "identity was revoked; an operator must admit the machine again")
	// What the control plane has given up does not run on.
	harness.Eventually(t, "its task ends", func() bool { return !harness.Alive(pid) })
	unchanged(t, f, func() {
		// Its next process is refused in the handshake.
		a.Process().Stop(t)
		a.Start(t)
		a.Process().Says(t, "refused this machine's certificate")
		if strings.Contains(a.Process().Log(), "msg=connected") {
			t.Error("it was let in")
		}
		// So is whoever has its key, and it may not join under that name again.
		cred, err := pki.LoadDir(a.State + "/pki")
		if err != nil {
			t.Fatal(err)
		}
		if c, err := client.New(client.Config{Servers: []string{f.Replicas[0].Addr}, Credential: cred}); err != nil {
			t.Error(err)
		} else if _, err := c.Agents(t.Context()); err == nil {
			t.Error("it may use the API")
		}
	})
	if doc, err := f.Agent(t.Context(), a.ID); err != nil || doc.State != client.AgentRevoked || doc.Since.After(time.Now()) {
		t.Errorf("%+v, error %v", doc, err)
	}
}

func TestAnAgentWithoutContainerdOffersNothingUntilItIsThere(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 1)
	rt := harness.NewRuntime(t)
	a := f.Join(t, harness.AgentOptions{Runtime: rt})
	rt.Stop()
	a.Start(t)
	a.Process().Says(t, "the container runtime does not answer; nothing is offered until it does")
	doc := a.Await(t, "it says what is wrong", func(d client.Agent) bool {
		return d.State == client.AgentConnected && d.Readings != nil && d.Readings.Runtime != ""
	})
	if doc.Total.CPUs != "0" || doc.Total.Mem != "0" {
		t.Errorf("it offers %+v", doc.Total)
	}
	wantText(t, doc.Readings.Runtime, "containerd at "+rt.Address+" does not answer", "systemctl start containerd")
	id := f.Submit(t, client.Submit{Command: []string{"true"}})
	f.Await(t, id, "it waits", func(task client.Task) bool { return task.Waiting != nil })
	if err := rt.Run(); err != nil {
		t.Fatal(err)
	}
	if task := f.End(t, id); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}

	// It goes while a task runs, and comes back.
	id = f.Submit(t, client.Submit{Command: untilTouched()})
	f.Running(t, id)
	pid := rt.PID(t, id)
	rt.Kill()
	a.Await(t, "it offers nothing", func(d client.Agent) bool { return d.Total.CPUs == "0" })
	touch(t, pid)
	if err := rt.Run(); err != nil {
		t.Fatal(err)
	}
	if task := f.End(t, id); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
	a.Await(t, "it offers again", func(d client.Agent) bool { return d.Total.CPUs != "0" })
}
