package cluster_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/linkpolicy"
	"github.com/tenderfleet/tender/controlplane/client/release"
	"github.com/tenderfleet/tender/controlplane/client/release/releasetest"
	"github.com/tenderfleet/tender/controlplane/rollout"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
	"github.com/tenderfleet/tender/transport/wire"
)

// puppet is an agent that says what it is told to say, for versions that there
// are none of.
type puppet struct {
	*cluster.Agent
	t      *testing.T
	dialer *transport.Dialer
	cancel context.CancelFunc
	ended  chan struct{}
	// capability is what it understands.
	capability int

	mu      sync.Mutex
	version string
	status  fleet.UpgradeStatus
	told    []fleet.Upgrade // what it was told to run, the newest last
	conn    *wire.Conn
	session transport.Session
}

func newPuppet(t *testing.T, f *cluster.Fleet, n *transporttest.Net, name, version string) *puppet {
	t.Helper()
	p := &puppet{Agent: f.Joined(name), t: t, version: version, capability: wire.Capability}
	d, err := transport.NewDialer(transport.DialerConfig{Conn: n.Conn(p.Addr), Holder: pki.NewHolder(p.Credential())})
	if err != nil {
		t.Fatal(err)
	}
	p.dialer = d
	t.Cleanup(func() {
		p.hangUp()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// connect has the puppet at a replica, until hangUp.
func (p *puppet) connect(at *cluster.Replica) {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.ended = cancel, make(chan struct{})
	go func() {
		defer close(p.ended)
		for ctx.Err() == nil {
			p.talk(ctx, at.Addr)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
}

func (p *puppet) hangUp() {
	if p.cancel != nil {
		p.cancel()
		<-p.ended
		p.cancel = nil
	}
}

func (p *puppet) talk(ctx context.Context, addr string) {
	dialCtx, stop := context.WithTimeout(ctx, 3*time.Second)
	s, err := p.dialer.Dial(dialCtx, addr, transport.ALPNAgent, nil)
	stop()
	if err != nil {
		return
	}
	defer s.Close(transport.CodeOK, "")
	defer context.AfterFunc(ctx, func() { s.Close(transport.CodeOK, "") })()
	st, err := s.Open(ctx, transport.StreamControl)
	if err != nil {
		return
	}
	conn := wire.NewConn(st, wire.MaxControl)
	p.mu.Lock()
	hello := wire.Hello{Capability: p.capability, Agent: p.ID, Version: p.version}
	p.mu.Unlock()
	if conn.Send(hello) != nil {
		return
	}
	if msg, err := conn.Recv(); err != nil {
		return
	} else if _, ok := msg.(wire.Welcome); !ok {
		return
	}
	p.mu.Lock()
	p.conn, p.session = conn, s
	p.mu.Unlock()
	_ = conn.Send(wire.Pull{Full: true})
	p.read()
	done := make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() {
		tick := time.NewTicker(linkpolicy.Default)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				p.read()
			}
		}
	})
	defer beats.Wait()
	defer close(done)
	for {
		msg, err := conn.Recv()
		if err != nil {
			return
		}
		switch msg := msg.(type) {
		case wire.Upgrade:
			p.mu.Lock()
			p.told = append(p.told, msg.Upgrade)
			p.mu.Unlock()
		case wire.Led, wire.Ask:
			_ = conn.Send(wire.Pull{Full: true})
			p.read()
		}
	}
}

// read sends readings.
func (p *puppet) read() {
	p.mu.Lock()
	r := fleet.Readings{Time: time.Now(), Bundle: 1, Upgrade: p.status}
	conn := p.conn
	p.mu.Unlock()
	if conn != nil {
		_ = conn.Send(wire.Readings{Readings: r})
	}
}

// says tells the state of the rollout; running another version means a new
// session, as it does for an agent.
func (p *puppet) says(state, version string) {
	p.mu.Lock()
	p.status = fleet.UpgradeStatus{State: state}
	if len(p.told) > 0 {
		for _, u := range p.told {
			if u.Rollout != "" {
				p.status.Rollout, p.status.Version = u.Rollout, u.Version
			}
		}
	}
	restart, session := version != p.version, p.session
	p.version = version
	p.mu.Unlock()
	if restart {
		_ = session.Close(transport.CodeOK, "")
		return
	}
	p.read()
}

// wanted is what it was told last to run.
func (p *puppet) wanted() fleet.Upgrade {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.told) == 0 {
		return fleet.Upgrade{}
	}
	return p.told[len(p.told)-1]
}

// fetch reads a package from an offset.
func (p *puppet) fetch(sum string, offset int64) ([]byte, error) {
	p.mu.Lock()
	s := p.session
	p.mu.Unlock()
	st, err := s.Open(p.t.Context(), transport.StreamPackage)
	if err != nil {
		return nil, err
	}
	defer st.Reset()
	conn := wire.NewConn(st, wire.MaxControl)
	if err := conn.Send(wire.PackageRequest{SHA256: sum, Offset: offset}); err != nil {
		return nil, err
	}
	var got []byte
	for {
		msg, err := conn.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return got, nil
		case err != nil:
			return got, err
		}
		switch msg := msg.(type) {
		case wire.PackageChunk:
			got = append(got, msg.Data...)
		case wire.Refusal:
			return got, errors.New(string(msg.Code))
		}
	}
}

// release adds a key and a package of two and a half chunks at the leader.
func addPackage(t *testing.T, f *cluster.Fleet, signer *releasetest.Signer, version string) (state.Package, []byte) {
	t.Helper()
	file := releasetest.Package(t, version, "amd64", bytes.Repeat([]byte("fleet"), wire.MaxPackageChunk/2)...)
	p, holders, err := f.Leader().AddPackage(t.Context(), signer.Sign(file), bytes.NewReader(file), "operator/test")
	if err != nil || len(holders) <= len(f.Replicas)/2 {
		t.Fatalf("%v have it, %v", holders, err)
	}
	return p, file
}

func addKey(t *testing.T, f *cluster.Fleet, s *releasetest.Signer) {
	t.Helper()
	key, err := release.ParseKey(s.Public)
	if err != nil {
		t.Fatal(err)
	}
	f.Propose(state.Command{PutReleaseKey: &state.ReleaseKey{ID: key.ID, Key: key.Text}})
}

func beginRollout(t *testing.T, f *cluster.Fleet, version string, rings ...string) fleet.RolloutID {
	t.Helper()
	parsed, err := rollout.ParseRings(rings)
	if err != nil {
		t.Fatal(err)
	}
	r := state.Rollout{ID: fleet.RolloutID("roll-" + version), Version: version, Rings: parsed, Soak: 2 * time.Minute, Healthy: 100, AtOnce: 10}
	f.Propose(state.Command{StartRollout: &r})
	return r.ID
}

func rolled(f *cluster.Fleet) (r state.Rollout) {
	f.Leader().Stale(func(s *state.State) {
		if s.Rollout != nil {
			r = *s.Rollout
		}
	})
	return r
}

func wants(f *cluster.Fleet, p *puppet, version string) {
	f.Await(string(p.ID)+" is told to run "+version, time.Minute, func() bool { return p.wanted().Version == version })
}

// Two rings are upgraded, one after the other, while leaders change: agents at a
// follower, which knows by itself what they are to run.
func TestRolloutOverTwoRings(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		capable(f)
		signer := releasetest.NewSigner(t)
		addKey(t, f, signer)
		pack, file := addPackage(t, f, signer, "2.0-1")
		follower := f.Others(f.Leader())[0]
		canary, other := newPuppet(t, f, n, "edge-1", "v1.0"), newPuppet(t, f, n, "edge-2", "v1.0")
		canary.connect(follower)
		other.connect(follower)
		f.Await("both are connected", time.Minute, func() bool { return canary.Connected() && other.Connected() })
		beginRollout(t, f, "v2.0", "canary=agent:edge-1", "rest")
		wants(f, canary, "v2.0")
		u := canary.wanted()
		if len(u.Packages) != 1 || u.Packages[0] != pack.Package {
			t.Errorf("told %+v", u)
		}
		sum := sha256.Sum256(file)
		digest := hex.EncodeToString(sum[:])
		for _, offset := range []int64{0, 7, wire.MaxPackageChunk, int64(len(file)), int64(len(file)) - 1} {
			if got, err := canary.fetch(digest, offset); err != nil || !bytes.Equal(got, file[offset:]) {
				t.Errorf("from %d: %d of %d bytes, %v", offset, len(got), len(file), err)
			}
		}
		if _, err := canary.fetch(digest, int64(len(file))+1); err == nil || err.Error() != string(wire.RefusedBadRequest) {
			t.Errorf("beyond its end: %v", err)
		}
		if _, err := canary.fetch(strings.Repeat("0", 64), 0); err == nil || err.Error() != string(wire.RefusedNotFound) {
			t.Errorf("another one: %v", err)
		}
		// One agent does not take what is there for all.
		for range 2 {
			held, err := canary.session.Open(t.Context(), transport.StreamPackage)
			if err != nil {
				t.Fatal(err)
			}
			defer held.Reset()
		}
		if got, err := canary.fetch(digest, 0); !errors.Is(err, transport.ErrStreamReset) {
			t.Errorf("a third package at a time: %d bytes, %v", len(got), err)
		}
		canary.says(fleet.UpgradeTrial, "v2.0")
		time.Sleep(30 * time.Second)
		canary.says(fleet.UpgradeDone, "v2.0")
		f.Await("it is done", time.Minute, func() bool { return canary.wanted().Version == "" })
		time.Sleep(30 * time.Second)

		// The next leader knows what was decided, and waits for what it has not seen.
		lead := f.Leader()
		stop(f, lead)
		time.Sleep(time.Minute)
		if other.wanted().Version != "" {
			t.Error("the second ring opened before the soak was over")
		}
		lead.Start()
		f.Await("the second ring opens", 2*time.Minute, func() bool { return other.wanted().Version == "v2.0" })
		other.says(fleet.UpgradeDone, "v2.0")
		f.Await("it is finished", 4*time.Minute, func() bool { return rolled(f).Phase == state.RolloutFinished })
	})
}

// A canary that goes back to its old version keeps the rest of the fleet from
// the new one, and an abort takes it from those that have not begun.
func TestFailingCanaryPausesTheRollout(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Up(1)
		capable(f)
		signer := releasetest.NewSigner(t)
		addKey(t, f, signer)
		addPackage(t, f, signer, "2.0-1")
		a, b, c := newPuppet(t, f, n, "edge-1", "v1.0"), newPuppet(t, f, n, "edge-2", "v1.0"), newPuppet(t, f, n, "edge-3", "v1.0")
		old := newPuppet(t, f, n, "edge-4", "v0.9")
		old.capability = 2
		for _, p := range []*puppet{a, b, c, old} {
			p.connect(f.Leader())
		}
		f.Await("all are connected", time.Minute, func() bool { return a.Connected() && b.Connected() && c.Connected() && old.Connected() })
		id := beginRollout(t, f, "v2.0", "agent:edge-1,edge-2", "rest")
		wants(f, a, "v2.0")
		wants(f, b, "v2.0")
		a.says(fleet.UpgradeRolledBack, "v1.0")
		f.Await("it pauses", time.Minute, func() bool { return rolled(f).Phase == state.RolloutPaused })
		f.Await("the other canary is told to leave it", time.Minute, func() bool { return b.wanted().Version == "" })
		if r := rolled(f); !strings.Contains(r.Reason, "edge-1: rolled back") {
			t.Errorf("the reason is %q", r.Reason)
		}
		f.Propose(state.Command{SteerRollout: &state.SteerRollout{ID: id, To: state.RolloutRunning}})
		wants(f, b, "v2.0")
		f.Propose(state.Command{SteerRollout: &state.SteerRollout{ID: id, To: state.RolloutAborted}})
		f.Await("it is taken back", time.Minute, func() bool { return b.wanted().Version == "" })
		time.Sleep(5 * time.Minute)
		for _, p := range []*puppet{c, old} {
			p.mu.Lock()
			if slices.ContainsFunc(p.told, func(u fleet.Upgrade) bool { return u.Rollout != "" }) {
				t.Errorf("%s was told %+v", p.ID, p.told)
			}
			p.mu.Unlock()
		}
		if len(old.told) > 0 {
			t.Errorf("an agent of capability 2 was sent %+v", old.told)
		}
	})
}

// A replica that was down when a package came fetches it, and so does one whose
// file is gone; a package counts only where a majority has it.
func TestReplicasFetchPackages(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Trio()
		capable(f)
		signer := releasetest.NewSigner(t)
		addKey(t, f, signer)
		late := f.Others(f.Leader())[1]
		late.Stop()
		pack, file := addPackage(t, f, signer, "2.0-1")
		has := func(r *cluster.Replica) bool {
			got, err := os.ReadFile(filepath.Join(r.Dir(), "packages", pack.SHA256))
			return err == nil && bytes.Equal(got, file)
		}
		for _, r := range f.Others(late) {
			if !has(r) {
				t.Errorf("%s does not have it", r.ID)
			}
		}
		late.Start()
		f.Await("the late one has it", time.Minute, func() bool { return has(late) })
		f.Await("the leader knows", time.Minute, func() bool { return len(f.Leader().Holders(pack.SHA256)) == 3 })

		for _, r := range f.Others(late) {
			r.Stop()
			if err := os.Remove(filepath.Join(r.Dir(), "packages", pack.SHA256)); err != nil {
				t.Fatal(err)
			}
			r.Start()
		}
		f.Await("all have it again", 2*time.Minute, func() bool { return has(f.Replicas[0]) && has(f.Replicas[1]) && has(f.Replicas[2]) })

		// Another's signature, another file, and no majority.
		stranger := releasetest.NewSigner(t)
		lead := f.Leader()
		if _, _, err := lead.AddPackage(t.Context(), stranger.Sign(file), bytes.NewReader(file), "operator/test"); !errors.Is(err, release.ErrSignature) {
			t.Errorf("another's signature: %v", err)
		}
		rubbish := []byte("rubbish")
		if _, _, err := lead.AddPackage(t.Context(), signer.Sign(rubbish), bytes.NewReader(rubbish), "operator/test"); !errors.Is(err, release.ErrPackage) {
			t.Errorf("rubbish: %v", err)
		}
		entries, err := os.ReadDir(filepath.Join(lead.Dir(), "packages"))
		if err != nil || len(entries) != 1 {
			t.Errorf("what was refused is still there: %v, %v", entries, err)
		}
	})
}

// What no record names any more is removed, though not at once.
func TestPackagesThatNothingNamesAreRemoved(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		f.Up(1)
		capable(f)
		signer := releasetest.NewSigner(t)
		addKey(t, f, signer)
		pack, _ := addPackage(t, f, signer, "2.0-1")
		there := func() bool {
			_, err := os.Stat(filepath.Join(f.Leader().Dir(), "packages", pack.SHA256))
			return err == nil
		}
		time.Sleep(2 * time.Hour)
		if !there() {
			t.Fatal("a package that is recorded is gone")
		}
		f.Propose(state.Command{DropPackages: &state.DropPackages{Version: "v2.0"}})
		took := f.Await("the file is gone", 3*time.Hour, func() bool { return !there() })
		within(t, "the removal", took, time.Hour, 80*time.Minute)
	})
}

// Who joins pins the release keys of the time.
func TestJoinTellsTheReleaseKeys(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, n *transporttest.Net) {
		f.Up(1)
		capable(f)
		signer := releasetest.NewSigner(t)
		addKey(t, f, signer)
		key, err := release.ParseKey(signer.Public)
		if err != nil {
			t.Fatal(err)
		}
		line := f.Line(pki.KindAgent, 1)
		own, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		req, err := enroll.NewRequest(line, own, "edge-1")
		if err != nil {
			t.Fatal(err)
		}
		d, err := transport.NewDialer(transport.DialerConfig{Conn: n.Conn("10.9.0.1:1000")})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		s, err := d.DialEnrol(t.Context(), f.Leader().Addr, line.Pin)
		if err != nil {
			t.Fatal(err)
		}
		st, err := s.Open(t.Context(), transport.StreamEnrol)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := enroll.Join(t.Context(), st, req)
		if err != nil || !slices.Equal(reply.ReleaseKeys, []string{key.Text}) {
			t.Errorf("told %q, %v, want %q", reply.ReleaseKeys, err, key.Text)
		}
	})
}
