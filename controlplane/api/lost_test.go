package api_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
)

// deposed is a replica that loses the lead as soon as something is committed.
type deposed struct {
	*apitest.Fleet
	lost bool
}

func (d *deposed) Propose(ctx context.Context, cmds ...state.Command) ([]state.Result, error) {
	if d.lost {
		return nil, &registrar.NotLeaderError{}
	}
	d.lost = true
	return d.Fleet.Propose(ctx, cmds...)
}

func (d *deposed) Read(ctx context.Context, fn func(*state.State)) error {
	if d.lost {
		return &registrar.NotLeaderError{}
	}
	return d.Fleet.Read(ctx, fn)
}

func (d *deposed) Ask(ctx context.Context, look func(*leader.Leader)) error {
	if d.lost {
		return &registrar.NotLeaderError{}
	}
	return d.Fleet.Ask(ctx, look)
}

// Who is told that nothing was done asks again.
func TestWhatIsCommittedIsNotDenied(t *testing.T) {
	d := &deposed{Fleet: apitest.New()}
	c := serve(t, api.Handler(d, d.Options()))
	task, err := c.Submit(t.Context(), client.Submit{Image: image, CPUs: "1"})
	if err != nil || task.ID == "" || d.Tasks() != 1 {
		t.Errorf("submitted %+v, error %v; there are %d tasks", task, err, d.Tasks())
	}
	d.lost = false
	if stopped, err := c.StopTask(t.Context(), task.ID, client.Stop{}); err != nil || stopped.ID != task.ID {
		t.Errorf("stopped %+v, error %v", stopped, err)
	}
	d.lost = false
	_, err = c.SetQuota(t.Context(), client.SetQuota{Quotas: []client.Quota{{Role: "r", Limit: client.Quantities{"cpus": "1"}}}})
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != client.CodeUnknown || p.Next == "" {
		t.Errorf("the quota is set: %+v", err)
	}
}

// failing answers no request.
type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

func TestARequestPassedOnToALeaderThatDies(t *testing.T) {
	var p *client.Problem
	for _, c := range []struct {
		name         string
		err          error
		read, change client.Code
	}{
		{"before it is there", &net.OpError{Op: "dial", Err: errors.New("refused")}, client.CodeNoLeader, client.CodeNoLeader},
		{"afterwards", &net.OpError{Op: "read", Err: errors.New("reset")}, client.CodeNoLeader, client.CodeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := apitest.New()
			f.SetStatus(api.Status{ID: "r2", Leader: "r1", LeaderAddr: "127.0.0.1:1"})
			o := f.Options()
			o.Forward = failing{c.err}
			asker := serve(t, api.Handler(f, o))
			// The client waits for a leader that does not come.
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := asker.Submit(ctx, client.Submit{Image: image}); !errors.As(err, &p) || p.Code != c.change {
				t.Errorf("a change: %+v", err)
			}
			again, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := asker.Tasks(again, client.TaskFilter{}); !errors.As(err, &p) || p.Code != c.read {
				t.Errorf("a question: %+v", err)
			}
		})
	}
}
