package cluster_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent"
	"github.com/tenderfleet/tender/agent/gate"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// watched is the gate of an agent that runs.
type watched struct {
	mu    sync.Mutex
	began time.Time
	gate  *gate.Gate
	want  string
	said  string
}

// watch has the agents that start from now on pass the gate.
func watch(f *cluster.Fleet, want string) *watched {
	w := &watched{want: want, began: time.Now(), gate: gate.New(time.Now(), gate.Limits{Steady: 30 * time.Second, Patience: time.Minute})}
	f.TuneAgent = func(cfg *agent.Config) {
		cfg.Watch = func(ev gate.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			switch v := w.gate.Step(time.Now(), ev); {
			case w.said != "":
			case v.Passed:
				w.said = "passed"
			case v.Failed != "":
				w.said = v.Failed
			}
			if w.said != "" && w.began != (time.Time{}) {
				w.said, w.began = fmt.Sprintf("after %v: %s", time.Since(w.began).Round(15*time.Second), w.said), time.Time{}
			}
		}
	}
	return w
}

func (w *watched) verdict() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said
}

// A version that works passes its gate with a session, without an uplink, and
// once there is a container runtime; one that shows the replicas another identity
// fails.
func TestHealthGate(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		gates := map[string]*watched{}
		for _, tc := range []struct {
			name   string
			before func(a *cluster.Agent)
			want   string
		}{
			{"session", func(*cluster.Agent) {}, "after 30s: passed"},
			{"no-uplink", func(a *cluster.Agent) { n.Cut(a.Addr) }, "after 30s: passed"},
			{"late-runtime", func(a *cluster.Agent) {
				a.Exec.SetUnavailable(true)
				time.AfterFunc(40*time.Second, func() { a.Exec.SetUnavailable(false) })
			}, "after 1m15s: passed"},
			{"stranger", func(a *cluster.Agent) {
				other := pkitest.New(t, cluster.TrustDomain).Credential(t, pki.KindAgent, string(a.ID))
				if err := errors.Join(os.RemoveAll(a.Dir("pki")), pki.SaveDir(a.Dir("pki"), other)); err != nil {
					t.Fatal(err)
				}
			}, "after 1m0s: replicas answer, and in 1m0s no session came of it: "},
		} {
			f.TuneAgent = nil
			a := f.Joined(tc.name)
			tc.before(a)
			gates[tc.name] = watch(f, tc.want)
			a.Start()
		}
		for name, w := range gates {
			f.Await(name+" has a verdict", 5*time.Minute, func() bool { return w.verdict() != "" })
			if got := w.verdict(); !strings.HasPrefix(got, w.want) {
				t.Errorf("%s: %s, want %s", name, got, w.want)
			}
		}
	})
}

// The control plane hears at once how an upgrade fares.
func TestUpgradesAreTold(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Trio()
		var mu sync.Mutex
		now := fleet.UpgradeStatus{Version: "v2", State: fleet.UpgradeTrial}
		f.TuneAgent = func(cfg *agent.Config) {
			cfg.Upgrade = func() fleet.UpgradeStatus { mu.Lock(); defer mu.Unlock(); return now }
		}
		a := f.Agent("edge-1")
		for _, next := range []fleet.UpgradeStatus{{Version: "v2", State: fleet.UpgradeRolledBack, Text: "it crashed"}, {}} {
			f.Await("the leader knows "+now.State, 30*time.Second, func() bool {
				soft, err := f.Leader().Soft(t.Context())
				return err == nil && soft.Agents[a.ID].Readings.Upgrade == now
			})
			mu.Lock()
			now = next
			mu.Unlock()
		}
		f.Await("the leader knows that there is nothing more to tell", 30*time.Second, func() bool {
			soft, err := f.Leader().Soft(t.Context())
			return err == nil && soft.Agents[a.ID].Readings.Upgrade == fleet.UpgradeStatus{}
		})
	})
}
