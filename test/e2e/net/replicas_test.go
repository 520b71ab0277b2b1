package net_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/e2e/harness"
)

// soon is how long the replicas may take to choose another leader.
const soon = 3 * time.Second

func TestReplicasFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.play(t, []scenario{
		{"1 the leader is killed: another leads within 3 s, what was granted is there", w.leaderKilled},
		{"2 a follower is killed: no client sees an error, it catches up", w.followerKilled},
		{"3 two of three are killed: writes are refused with a text, tasks go on, it heals alone", w.twoKilled},
		{"5 the leader is paused: another leads, the old one never answers from the past", w.leaderPaused},
		{"6 the leader is cut off from the others: it grants nothing, the others go on", w.leaderApart},
		{"6 the leader is cut off from everybody: agents and clients go to the next one", w.leaderGone},
		{"7 two followers are cut from each other: nothing happens", w.followersApart},
		{"7 leader and follower are cut from each other: at most one election", w.pairApart},
		{"8 a follower does not hear the leader: no storm of elections", w.followerDeaf},
		{"8 the leader does not hear a follower: no storm of elections", w.followerMute},
		{"25 a replica with a third of 60 agents dies: all are back within 35 s", w.herdReturns},
		{"33 the answer to a submission is lost: the client says so and sends it once", w.answerLost},
	})
}

func (w *world) leaderKilled(t *testing.T) {
	old := w.Leader(t)
	s := begin(t, w.Client)
	s.moves(t, 10)
	old.Kill(t)
	w.successor(t, old, soon)
	s.moves(t, 10)
	s.end()
	// One may have been under way; the others waited for the next leader.
	if len(s.failed) > 1 {
		t.Errorf("%d calls failed: %v", len(s.failed), s.failed)
	}
	w.kept(t, s)
}

func (w *world) followerKilled(t *testing.T) {
	leader := w.Leader(t)
	killed, other := w.others(leader)[0], w.others(leader)[1]
	term := w.term(t)
	s := begin(t, w.ClientOf(t, leader, other, killed))
	s.moves(t, 10)
	killed.Kill(t)
	s.moves(t, 40)
	killed.Start(t)
	s.moves(t, 10)
	s.end()
	for name, err := range s.failed {
		t.Errorf("submission %s: %v", name, err)
	}
	if s.longest > time.Second {
		t.Errorf("a submission took %v", s.longest)
	}
	if now := w.term(t); now != term {
		t.Errorf("the term was %d and is %d", term, now)
	}
	w.kept(t, s)
	// Without the third, nothing is granted that the one which came back lacks.
	w.agreed(t)
	other.Kill(t)
	s = begin(t, w.Client)
	s.moves(t, 10)
	s.end()
	other.Start(t)
	w.kept(t, s)
}

func (w *world) twoKilled(t *testing.T) {
	leader := w.Leader(t)
	id, _ := w.run(t, w.agents[0])
	for _, r := range w.others(leader) {
		r.Kill(t)
	}
	var header http.Header
	var body []byte
	harness.Eventually(t, "writes are refused", func() bool {
		var status int
		status, header, body = w.post(t, leader, "/v1/tasks", waits("refused"))
		return status == http.StatusServiceUnavailable
	})
	var p client.Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Code != client.CodeNoLeader || p.Detail == "" || p.Next == "" ||
		header.Get("Content-Type") != "application/problem+json" || header.Get("Retry-After") == "" {
		t.Errorf("a write is refused with %v %s", header, body)
	}
	s := begin(t, w.ClientOf(t, w.Replicas...))
	// It ends while nobody can be told.
	end(t, w.agents[0], id)
	for i, x := range w.witness {
		if pid := w.agents[i].Runtime.PID(t, x.task); pid != x.pid {
			t.Errorf("the witness was process %d and is %d", x.pid, pid)
		}
	}
	began := time.Now()
	w.others(leader)[0].Start(t) // two of three
	w.once(t, w.agents[0], id)
	t.Logf("with two of three, the end of a task is known after %.1f s", time.Since(began).Seconds())
	s.moves(t, 3)
	s.end()
	w.others(leader)[1].Start(t)
	w.kept(t, s)
	list, err := w.Tasks(t.Context(), client.TaskFilter{All: true, Limit: 100_000})
	must(t, err)
	// The first tries had been given to Raft before the leader noticed; at the
	// end it refused, and such a one must not be carried out later.
	for _, task := range list.Tasks {
		if task.Name == "refused" && !task.Terminal() {
			_, err := w.StopTask(t.Context(), task.ID, client.Stop{})
			must(t, err)
		}
	}
}

// post sends a request to one replica, which is not followed to another.
func (w *world) post(t *testing.T, r *harness.Replica, path string, in any) (status int, header http.Header, body []byte) {
	t.Helper()
	data, err := json.Marshal(in)
	must(t, err)
	c := http.Client{
		Timeout:       20 * time.Second,
		Transport:     &http.Transport{DialContext: w.Dial(), TLSClientConfig: pki.ClientTLS(pki.NewHolder(w.Operator), nil, pki.ALPNHTTP1), DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+r.Addr+path, bytes.NewReader(data))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	must(t, err)
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	body, err = io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, resp.Header, body
}

// A leader that was paused takes itself for one when it goes on. Requests that
// wait for it then, and those of the next moments, must be answered from what
// the others have agreed on since, or not at all.
func (w *world) leaderPaused(t *testing.T) {
	old := w.Leader(t)
	id := w.Submit(t, waits("paused"))
	began := time.Now()
	old.Process().Pause(t)
	w.successor(t, old, soon)
	if _, err := w.ClientOf(t, w.others(old)...).StopTask(t.Context(), id, client.Stop{}); err != nil {
		t.Fatal(err)
	}
	pass(t, 8*time.Second-time.Since(began))
	var asked sync.WaitGroup
	var mu sync.Mutex
	answers, errs := map[string]int{}, 0
	stop := make(chan struct{})
	for range 8 {
		c := w.ClientOf(t, old)
		asked.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				task, err := c.Task(t.Context(), id)
				mu.Lock()
				if err != nil {
					errs++
				} else {
					answers[task.State]++
				}
				mu.Unlock()
			}
		})
	}
	s := begin(t, w.ClientOf(t, old))
	pass(t, 2*time.Second)
	old.Process().Resume(t)
	s.moves(t, 5) // through the old one, which leads them to the new one
	close(stop)
	asked.Wait()
	s.end()
	t.Logf("after the pause of %.1f s the old leader's answers were %v and %d errors", time.Since(began).Seconds(), answers, errs)
	for state, n := range answers {
		if state != "TASK_KILLED" {
			t.Errorf("%d answers from the past: %s", n, state)
		}
	}
	if answers["TASK_KILLED"] == 0 {
		t.Error("the old leader never answered")
	}
	w.kept(t, s)
}

func (w *world) leaderApart(t *testing.T) {
	old := w.Leader(t)
	others := w.others(old)
	must(t, w.bed.Part(t.Context(), old.Node, others[0].Node))
	must(t, w.bed.Part(t.Context(), old.Node, others[1].Node))
	alone := begin(t, w.ClientOf(t, old))
	fine := begin(t, w.ClientOf(t, others...))
	w.successor(t, old, soon)
	fine.moves(t, 20)
	if doc := see(t, old); doc.Leader == old.ID {
		t.Error("the leader that is alone takes itself for one")
	}
	before := len(w.tasksNamed(t, "alone"))
	status, _, body := w.post(t, old, "/v1/tasks", waits("alone"))
	if status != http.StatusServiceUnavailable || !strings.Contains(string(body), string(client.CodeNoLeader)) {
		t.Errorf("the leader that is alone answers %d %s", status, body)
	}
	fine.end()
	must(t, w.bed.Heal(t.Context()))
	alone.moves(t, 5)
	alone.end()
	w.kept(t, alone, fine)
	if n := len(w.tasksNamed(t, "alone")); n != before {
		t.Error("what the leader that was alone refused is there")
	}
}

func (w *world) tasksNamed(t *testing.T, name string) (found []client.Task) {
	t.Helper()
	list, err := w.Tasks(t.Context(), client.TaskFilter{All: true, Limit: 100_000})
	must(t, err)
	for _, task := range list.Tasks {
		if task.Name == name {
			found = append(found, task)
		}
	}
	return found
}

func (w *world) leaderGone(t *testing.T) {
	old := w.Leader(t)
	id, _ := w.run(t, w.agents[1])
	s := begin(t, w.Client)
	must(t, w.bed.Cut(t.Context(), old.Node))
	w.successor(t, old, soon)
	end(t, w.agents[1], id)
	s.moves(t, 10)
	s.end()
	w.once(t, w.agents[1], id)
	w.kept(t, s)
}

// elections lets a fault last, during which a stream must go on, and bounds how
// many terms it may cost.
func (w *world) elections(t *testing.T, most uint64, faults ...loss) {
	t.Helper()
	before := w.term(t)
	s := begin(t, w.Client)
	s.moves(t, 5)
	must(t, w.bed.Drop(t.Context(), faults...))
	pass(t, 5*time.Second)
	s.moves(t, 10)
	s.end()
	if n := w.term(t) - before; n > most {
		t.Errorf("%d terms in 5 s, want at most %d", n, most)
	} else {
		t.Logf("%d terms", n)
	}
	must(t, w.bed.Heal(t.Context()))
	w.agreed(t)
	if n := w.term(t) - before; n > most+1 {
		t.Errorf("%d terms with the end of it, want at most %d", n, most+1)
	}
	w.kept(t, s)
}

func (w *world) followersApart(t *testing.T) {
	f := w.others(w.Leader(t))
	w.elections(t, 0, loss{From: f[0].Node, To: f[1].Node}, loss{From: f[1].Node, To: f[0].Node})
}

func (w *world) pairApart(t *testing.T) {
	leader := w.Leader(t)
	f := w.others(leader)[0]
	w.elections(t, 2, loss{From: leader.Node, To: f.Node}, loss{From: f.Node, To: leader.Node})
}

func (w *world) followerDeaf(t *testing.T) {
	leader := w.Leader(t)
	w.elections(t, 3, loss{From: leader.Node, To: w.others(leader)[0].Node})
}

func (w *world) followerMute(t *testing.T) {
	leader := w.Leader(t)
	w.elections(t, 3, loss{From: w.others(leader)[0].Node, To: leader.Node})
}
