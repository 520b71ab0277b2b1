package e2e

import (
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

func TestAnIdleAgentIsSmall(t *testing.T) {
	t.Parallel()
	_, a := withAgent(t, 1)
	// Its first seconds are over when it has looked at the machine twice more.
	began := time.Now()
	harness.Eventually(t, "ten seconds pass", func() bool { return time.Since(began) >= 10*time.Second })
	const limit = 40 << 20
	rss := a.RSS(t)
	t.Logf("an idle agent holds %.1f MiB", float64(rss)/(1<<20))
	if rss > limit {
		t.Errorf("an idle agent holds %d KiB, the limit is %d", rss>>10, limit>>10)
	}
}

func TestACertificateIsRenewedAndTheSessionGoesOn(t *testing.T) {
	t.Parallel()
	const life = 10 * time.Second
	f, a := withAgent(t, 1, "--agent-cert-life", life.String())
	first := a.Connected(t)
	if d := time.Until(first.CertNotAfter); d > life {
		t.Fatalf("the first certificate holds for %v", d)
	}
	id := f.Submit(t, client.Submit{Command: untilTouched()})
	f.Running(t, id)
	a.Await(t, "its first certificate has ended and it has a new one", func(d client.Agent) bool {
		return time.Now().After(first.CertNotAfter.Add(time.Second)) && d.CertNotAfter.After(time.Now())
	})
	if now := a.Connected(t); !now.Since.Equal(first.Since) || now.Remote != first.Remote {
		t.Errorf("the session was from %s since %v and is from %s since %v", first.Remote, first.Since, now.Remote, now.Since)
	}
	// The new one is what it comes back with.
	a.Process().Kill(t)
	a.Start(t)
	a.Process().Says(t, "msg=connected")
	end(t, a.Runtime, id)
	if task := f.End(t, id); task.State != "TASK_FINISHED" {
		t.Error(harness.Tell(task))
	}
}

func TestOfThirtyJoinsWithATokenForOneUseOneWins(t *testing.T) {
	t.Parallel()
	f := harness.NewFleet(t, 3)
	line := f.Token(t, client.CreateToken{Uses: 1})
	type outcome struct {
		text string
		code int
	}
	outcomes := make([]outcome, 30)
	var wg sync.WaitGroup
	for i := range outcomes {
		// Each asks another replica first.
		mine := harness.Reorder(t, line, i%3)
		state := t.TempDir()
		wg.Go(func() {
			_, stderr, code := harness.Run(t, mine, harness.Program("tender-agent"), "join", "--state", state, "--name", "n"+strconv.Itoa(i), "-")
			outcomes[i] = outcome{stderr, code}
		})
	}
	wg.Wait()
	won := 0
	for _, o := range outcomes {
		switch o.code {
		case 0:
			won++
		default:
			wantText(t, o.text, "used already", "ask an operator for a new")
		}
	}
	if won != 1 {
		t.Errorf("%d of 30 joined", won)
	}
	agents, err := f.Agents(t.Context())
	if err != nil || len(agents) != 1 {
		t.Errorf("the fleet has %d agents, error %v", len(agents), err)
	}
	tokens, err := f.Tokens(t.Context())
	if err != nil || !slices.ContainsFunc(tokens, func(k client.Token) bool { return k.Kind == "agent" && k.Uses == 0 }) {
		t.Errorf("the tokens are %+v, error %v", tokens, err)
	}
}
