package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenderfleet/tender/agent/install"
	"github.com/tenderfleet/tender/agent/upgrade"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// Upgrades is how this machine installs another version of its agent.
type Upgrades struct {
	// Keys is the file of the release keys that the machine trusts, and Dir the
	// directory with root's answers.
	Keys, Dir string
	// Again gives a version that was rolled back another chance, before it is
	// installed once more; nil when nobody has counted its chances.
	Again func() error
}

// joinedKeys is the file in the state directory with the release keys that were
// told at the join.
const joinedKeys = "release.pub"

// keepKeys writes down which keys were told when the machine joined. They count
// for nothing until somebody with privileges has pinned them.
func keepKeys(stateDir string, lines []string) error {
	keys, err := install.ParseKeys([]byte(strings.Join(lines, "\n")))
	if err != nil {
		return fmt.Errorf("release keys: %w", err)
	}
	path := filepath.Join(stateDir, joinedKeys)
	if len(keys) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("release keys: %w", err)
		}
		return nil
	}
	if err := os.WriteFile(path, keys.Text(), 0o600); err != nil {
		return fmt.Errorf("release keys: %w", err)
	}
	return nil
}

// PinKeys makes the keys that were told at the join those that the machine
// trusts, in the file path, unless there are any: what is pinned, no control
// plane changes. It reports whether it has pinned some; that others are pinned is
// an error. stateDir may be another user's.
func PinKeys(stateDir, path string) (bool, error) {
	text, err := install.ReadForeign(stateDir, joinedKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("pin release keys: %w", err)
	}
	keys, err := install.ParseKeys(text)
	if err != nil || len(keys) == 0 {
		return false, fmt.Errorf("pin release keys: %s has none (%v)", filepath.Join(stateDir, joinedKeys), err)
	}
	pinned, err := install.Pin(path, keys)
	if pinned || err != nil {
		return pinned, err
	}
	have, err := install.ReadKeys(path)
	if err != nil {
		return false, err
	}
	for _, k := range keys {
		if !have.Has(k) {
			return false, fmt.Errorf("%s is kept as it is, and lacks the key %s of this control plane; add that line to it if you trust it", path, k)
		}
	}
	return false, nil
}

const (
	// stallTime is how long a package may not come on before the stream is given
	// up.
	stallTime = 30 * time.Second
	// giveWay is how long one piece of a package waits for updates of tasks.
	giveWay     = time.Second
	giveWayLook = 50 * time.Millisecond
)

// upgrader does what package upgrade decides. One goroutine runs it.
type upgrader struct {
	a    *Agent
	wake chan struct{} // holds one

	mu     sync.Mutex
	want   fleet.Upgrade
	status fleet.UpgradeStatus
	cancel context.CancelFunc // of what is under way; nil for nothing

	// Of the goroutine alone: what it knows of the wanted file, and of failures.
	sha256, signature string
	file              upgrade.File
	failed            string
	retry             time.Time
	back              transport.Backoff
}

func newUpgrader(a *Agent) *upgrader { return &upgrader{a: a, wake: make(chan struct{}, 1)} }

// poke has the facts looked at.
func (u *upgrader) poke() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// take is what the control plane wants now.
func (u *upgrader) take(want fleet.Upgrade) {
	u.mu.Lock()
	changed := !reflect.DeepEqual(want, u.want)
	u.want = want
	if changed && u.cancel != nil {
		u.cancel()
	}
	u.mu.Unlock()
	if changed {
		u.a.log.Info("another version is wanted", "rollout", want.Rollout, "version", want.Version)
		u.poke()
	}
}

// told is what readings say.
func (u *upgrader) told() fleet.UpgradeStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}

// tell notes how far it is. A new state is sent at once, a text with the next
// readings.
func (u *upgrader) tell(s fleet.UpgradeStatus) {
	u.mu.Lock()
	was := u.status
	u.status = s
	u.mu.Unlock()
	if was.Rollout == s.Rollout && was.State == s.State && was.Version == s.Version {
		return
	}
	u.a.log.Info("upgrade", "rollout", s.Rollout, "version", s.Version, "state", s.State, "text", s.Text)
	u.a.mu.Lock()
	l := u.a.link
	u.a.mu.Unlock()
	if l != nil {
		l.queue(wire.Ask{})
	}
}

// run does what is decided until ctx ends.
func (u *upgrader) run(ctx context.Context) error {
	for ctx.Err() == nil {
		plan := upgrade.Decide(u.facts())
		u.tell(plan.Status)
		if plan.Do != upgrade.Nothing {
			u.do(ctx, plan)
			continue
		}
		again := time.NewTimer(time.Until(plan.Again))
		if plan.Again.IsZero() {
			again.Stop()
		}
		select {
		case <-u.wake:
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
	}
	return ctx.Err()
}

func (u *upgrader) facts() upgrade.Facts {
	a := u.a
	f := upgrade.Facts{Now: time.Now(), Version: a.cfg.Version, Arch: runtime.GOARCH, Held: a.cfg.Account.refuses(), Failed: u.failed, Retry: u.retry}
	a.mu.Lock()
	f.Connected = a.link != nil
	a.mu.Unlock()
	u.mu.Lock()
	f.Want = u.want
	u.mu.Unlock()
	var p fleet.Package
	for _, x := range f.Want.Packages {
		if x.Arch == f.Arch {
			p = x
		}
	}
	if p.SHA256 != u.sha256 || p.Signature != u.signature {
		u.sha256, u.signature, u.file = p.SHA256, p.Signature, upgrade.File{}
		u.failed, u.retry = "", time.Time{}
		f.Failed, f.Retry = "", time.Time{}
		u.back.Reset()
	}
	var err error
	if f.Asked, f.AskedAt, err = install.Asked(a.cfg.StateDir); err != nil {
		a.log.Debug("request not read", "error", err) // root answers it all the same
	}
	if a.cfg.Upgrade != nil {
		f.Local = a.cfg.Upgrade()
	}
	if a.cfg.Upgrades == nil {
		f.Unfit = "this agent was not installed as a package; install tender-agent.deb on the machine, or upgrade it by hand"
		return f
	}
	if f.Answer, err = install.ReadAnswer(a.cfg.Upgrades.Dir); err != nil {
		a.log.Debug("answer not read", "error", err)
	}
	if p.SHA256 == "" {
		return f
	}
	keys, err := install.ReadKeys(a.cfg.Upgrades.Keys)
	if err == nil {
		err = keys.Knows(p.Signature)
	}
	if err != nil {
		f.Unfit = err.Error()
	}
	f.File = u.file
	if info, err := os.Stat(u.path()); err == nil {
		f.File.Size = info.Size()
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(a.cfg.StateDir, &disk); err == nil {
		f.Free = int64(disk.Bavail) * disk.Bsize
	}
	return f
}

func (u *upgrader) path() string { return install.PackageFile(u.a.cfg.StateDir, u.sha256) }

// do carries out one action. What fails is tried again after a while.
func (u *upgrader) do(ctx context.Context, plan upgrade.Plan) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	u.mu.Lock()
	u.cancel = cancel
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		u.cancel = nil
		u.mu.Unlock()
	}()
	var err error
	switch plan.Do {
	case upgrade.Fetch:
		err = u.fetch(ctx, plan)
	case upgrade.Discard:
		err = u.discard()
	case upgrade.Verify:
		err = u.verify(plan.Package)
	case upgrade.HandOver:
		err = u.ask(upgrade.Request{Rollout: plan.Status.Rollout, Version: plan.Status.Version, Package: plan.Package})
	case upgrade.Nothing:
	}
	if err == nil {
		u.failed, u.retry = "", time.Time{}
		u.back.Reset()
		return
	}
	if ctx.Err() != nil {
		return
	}
	wait := u.back.Next(rand.Float64())
	if r, ok := errors.AsType[*refusedError](err); ok {
		wait = max(wait, r.r.RetryAfter)
	}
	u.failed, u.retry = err.Error(), time.Now().Add(wait)
	u.a.log.Warn("the package does not come on", "cause", transport.Explain(err), "retry_in", wait.Round(time.Millisecond))
}

// ask hands a verified package over. Somebody wants this version, whatever became
// of it before.
func (u *upgrader) ask(r upgrade.Request) error {
	cfg := &u.a.cfg
	if cfg.Upgrades.Again != nil && cfg.Upgrade != nil {
		if s := cfg.Upgrade(); s.State == fleet.UpgradeRolledBack && s.Version == r.Version {
			if err := cfg.Upgrades.Again(); err != nil {
				return fmt.Errorf("another chance: %w", err)
			}
		}
	}
	return install.Ask(u.a.cfg.StateDir, r)
}

// discard begins the file anew.
func (u *upgrader) discard() error {
	u.file.Verified = false
	if err := os.Remove(u.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// verify decides about a whole file. One with another digest is thrown away.
func (u *upgrader) verify(p fleet.Package) error {
	keys, err := install.ReadKeys(u.a.cfg.Upgrades.Keys)
	if err != nil {
		return err
	}
	f, err := os.Open(u.path())
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened to read
	err = keys.Verify(f, p)
	switch {
	case errors.Is(err, install.ErrUntrusted):
		u.file.Forged = err.Error()
		return nil
	case errors.Is(err, install.ErrAltered):
		u.file.Wrong++
		return errors.Join(err, u.discard())
	case err == nil:
		u.file.Verified = true
	}
	return err
}

// fetch brings the package from the session, as far as that goes. The file has
// whole pieces, so that its size is where to go on.
func (u *upgrader) fetch(ctx context.Context, plan upgrade.Plan) error {
	u.a.mu.Lock()
	l := u.a.link
	u.a.mu.Unlock()
	if l == nil {
		return nil
	}
	file, err := u.open()
	if err != nil {
		return err
	}
	err = u.stream(ctx, l.conn, file, plan)
	return errors.Join(err, file.Sync(), file.Close())
}

// open opens the file to append to, and removes those of other packages.
func (u *upgrader) open() (*os.File, error) {
	dir := filepath.Dir(u.path())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	others, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		if o.Name() == filepath.Base(u.path()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, o.Name())); err != nil {
			u.a.log.Warn("an old package is not removed", "error", err)
		}
	}
	return os.OpenFile(u.path(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

func (u *upgrader) stream(ctx context.Context, session transport.Session, file io.Writer, plan upgrade.Plan) error {
	st, err := session.Open(ctx, transport.StreamPackage)
	if err != nil {
		return err
	}
	defer st.Reset()
	defer context.AfterFunc(ctx, st.Reset)()
	conn := wire.NewConn(&counted{Stream: st, a: u.a.cfg.Account, out: forUpdates, in: forPackages}, wire.MaxControl)
	_ = st.SetDeadline(time.Now().Add(stallTime))
	p, at := plan.Package, plan.Offset
	if err := conn.Send(wire.PackageRequest{SHA256: p.SHA256, Offset: at}); err != nil {
		return err
	}
	for {
		u.giveWay(ctx)
		_ = st.SetDeadline(time.Now().Add(stallTime))
		msg, err := conn.Recv()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the package ends after %d of %d bytes", at, p.Size)
		}
		if err != nil {
			return err
		}
		chunk, ok := msg.(wire.PackageChunk)
		switch refusal, refused := msg.(wire.Refusal); {
		case refused && refusal.Code == wire.RefusedBadRequest: // it has less than is here
			return errors.Join(&refusedError{refusal}, u.discard())
		case refused:
			return &refusedError{refusal}
		case !ok || len(chunk.Data) == 0:
			return fmt.Errorf("%T on a package stream", msg)
		case at+int64(len(chunk.Data)) > p.Size:
			u.file.Wrong++
			return errors.Join(fmt.Errorf("%w: it has more than %d bytes", install.ErrAltered, p.Size), u.discard())
		}
		if _, err := file.Write(chunk.Data); err != nil {
			return err
		}
		at += int64(len(chunk.Data))
		u.back.Reset() // it comes on
		next := upgrade.Decide(u.facts())
		u.tell(next.Status)
		if next.Do != upgrade.Fetch || next.Package != p || next.Offset != at {
			return nil
		}
	}
}

// giveWay lets updates of tasks go first, for a while.
func (u *upgrader) giveWay(ctx context.Context) {
	for waited := time.Duration(0); waited < giveWay; waited += giveWayLook {
		u.a.mu.Lock()
		spooled := u.a.spooled
		u.a.mu.Unlock()
		if spooled == 0 || !sleep(ctx, giveWayLook) {
			return
		}
	}
}
