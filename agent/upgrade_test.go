package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"aead.dev/minisign"

	"github.com/tenderfleet/tender/agent/install"
	"github.com/tenderfleet/tender/agent/linkpolicy"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

// upgrading is an agent that is told of another version, and the replica that
// has the package.
type upgrading struct {
	t       *testing.T
	a       *Agent
	key     minisign.PrivateKey
	content []byte
	want    fleet.Upgrade
	asked   []int64 // the offsets of all requests
	serve   func(st transport.Stream, conn *wire.Conn, from int64)
	stop    func()
}

func newUpgrading(t *testing.T, policy linkpolicy.Policy) *upgrading {
	t.Helper()
	dir := t.TempDir()
	pub, key, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	u := &upgrading{t: t, key: key, content: bytes.Repeat([]byte("package "), 50_000), a: &Agent{
		log: slog.New(slog.DiscardHandler),
		cfg: Config{StateDir: dir, Version: "v0.1.1", Account: OpenAccount(dir, policy, nil), Upgrades: &Upgrades{Keys: dir + "/keys", Dir: dir}},
	}}
	if err := os.WriteFile(dir+"/keys", install.Keys{pub}.Text(), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(u.content)
	r := minisign.NewReader(bytes.NewReader(u.content))
	if _, err := r.Read(make([]byte, len(u.content))); err != nil {
		t.Fatal(err)
	}
	u.want = fleet.Upgrade{Rollout: "r1", Version: "v0.1.2", Packages: []fleet.Package{{
		Arch: runtime.GOARCH, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(u.content)), Signature: string(r.Sign(key)),
	}}}
	u.serve = u.send(u.content, nil)
	return u
}

// send answers requests from some content; before a piece is sent, the hook may
// do something and say that no more comes.
func (u *upgrading) send(content []byte, hook func(at int64, st transport.Stream) bool) func(transport.Stream, *wire.Conn, int64) {
	return func(st transport.Stream, conn *wire.Conn, from int64) {
		at := from
		for piece := range slices.Chunk(content[min(from, int64(len(content))):], 10_001) {
			if hook != nil && !hook(at, st) {
				return
			}
			if conn.Send(wire.PackageChunk{Data: piece}) != nil {
				return
			}
			at += int64(len(piece))
		}
		_ = st.Close()
	}
}

// begin starts the agent's part; the returned function ends it, as a restart does.
func (u *upgrading) begin() {
	ctx, cancel := context.WithCancel(u.t.Context())
	done := make(chan struct{})
	u.a.upgrade = newUpgrader(u.a)
	u.a.upgrade.take(u.want)
	go func() { defer close(done); _ = u.a.upgrade.run(ctx) }()
	u.stop = func() { cancel(); <-done }
}

// connect gives the agent a session and returns what cuts it.
func (u *upgrading) connect() (cut func()) {
	one, two := transport.Pair(pki.Identity{}, pki.Identity{})
	ctx, cancel := context.WithCancel(u.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			st, err := two.Accept(ctx)
			if err != nil {
				return
			}
			conn := wire.NewConn(st, wire.MaxControl)
			msg, err := conn.Recv()
			if err != nil {
				continue
			}
			from := msg.(wire.PackageRequest).Offset
			u.asked = append(u.asked, from)
			u.serve(st, conn, from)
		}
	}()
	u.a.mu.Lock()
	u.a.link = &link{conn: one, wake: make(chan struct{}, 1)}
	u.a.mu.Unlock()
	u.a.upgrade.poke()
	return func() {
		u.a.mu.Lock()
		u.a.link = nil
		u.a.mu.Unlock()
		_ = one.Close(transport.CodeOK, "")
		cancel()
		<-done
	}
}

// state checks what is told, once nothing moves any more.
func (u *upgrading) state(state, text string) {
	u.t.Helper()
	synctest.Wait()
	if got := u.a.upgrade.told(); got.State != state || !strings.Contains(got.Text, text) || state != "" && (got.Rollout != "r1" || got.Version != "v0.1.2") {
		u.t.Errorf("told: %+v, want %s: %s", got, state, text)
	}
}

func (u *upgrading) size() int64 {
	info, err := os.Stat(install.PackageFile(u.a.cfg.StateDir, u.want.Packages[0].SHA256))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	if err != nil {
		u.t.Fatal(err)
	}
	return info.Size()
}

// handedOver checks whether root is asked.
func (u *upgrading) handedOver(want bool) {
	u.t.Helper()
	r, _, err := install.Asked(u.a.cfg.StateDir)
	if err != nil || (r.Rollout != "") != want || want && r.Package != u.want.Packages[0] {
		u.t.Errorf("asked of root: %+v, %v", r, err)
	}
}

// Whoever comes first is trusted; what is pinned stays.
func TestPinKeys(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/pinned.pub"
	first, _, _ := minisign.GenerateKey(nil)
	second, _, _ := minisign.GenerateKey(nil)
	for _, tc := range []struct {
		name   string
		told   []string
		pinned bool
		err    string
	}{
		{"none are told", nil, false, ""},
		{"the first", []string{first.String()}, true, ""},
		{"the same again", []string{first.String()}, false, ""},
		{"another control plane", []string{first.String(), second.String()}, false, "lacks the key " + second.String()},
		{"none any more", nil, false, ""},
	} {
		if err := keepKeys(dir, tc.told); err != nil {
			t.Fatal(err)
		}
		pinned, err := PinKeys(dir, path)
		if pinned != tc.pinned || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: pinned %v, %v", tc.name, pinned, err)
		}
	}
	if keys, err := install.ReadKeys(path); err != nil || len(keys) != 1 || !keys.Has(first) {
		t.Errorf("%v, %v", keys, err)
	}
	// The directory is the agent's, who may wish root to read something else.
	if err := errors.Join(os.WriteFile(dir+"/secret", []byte(second.String()), 0o600), os.Remove(path), os.Symlink(dir+"/secret", dir+"/release.pub")); err != nil {
		t.Fatal(err)
	}
	if pinned, err := PinKeys(dir, dir+"/other"); pinned || err == nil {
		t.Errorf("through a link: pinned %v, %v", pinned, err)
	}
}

func TestUpgrade(t *testing.T) {
	for name, scenario := range map[string]func(u *upgrading){
		"fetched, verified, handed over": func(u *upgrading) {
			old := filepath.Join(u.a.cfg.StateDir, "packages", "old.part")
			if err := errors.Join(os.Mkdir(filepath.Dir(old), 0o700), os.WriteFile(old, nil, 0o600)); err != nil {
				u.t.Fatal(err)
			}
			u.begin()
			u.state(fleet.UpgradeFetching, "0 %")
			defer u.connect()()
			u.state(fleet.UpgradeInstalling, "")
			u.handedOver(true)
			if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
				u.t.Errorf("an old package: %v", err)
			}
			if _, use := u.a.cfg.Account.look(time.Now()); use.Images < u.want.Packages[0].Size || use.Images > u.want.Packages[0].Size*11/10 {
				u.t.Errorf("accounted: %+v", use)
			}
			u.a.upgrade.take(fleet.Upgrade{}) // too late
			u.state(fleet.UpgradeInstalling, "")
			u.handedOver(true)
		},
		"cut in the middle, resumed at the byte": func(u *upgrading) {
			u.begin()
			u.serve = u.send(u.content[:200_020], nil) // and no more, for now
			cut := u.connect()
			u.state(fleet.UpgradeFetching, "ends after 200020 of 400000 bytes")
			cut()
			if got := u.size(); got != 200_020 {
				u.t.Errorf("%d bytes are here", got)
			}
			u.stop() // and a restart on top
			u.begin()
			u.serve = u.send(u.content, nil)
			u.asked = nil
			defer u.connect()()
			u.state(fleet.UpgradeInstalling, "")
			u.handedOver(true)
			if !slices.Equal(u.asked, []int64{200_020}) {
				u.t.Errorf("asked from %v", u.asked)
			}
		},
		"the session ends in the middle": func(u *upgrading) {
			u.begin()
			var cut func()
			u.serve = u.send(u.content, func(at int64, _ transport.Stream) bool {
				if at > 100_000 {
					synctest.Wait() // what was sent has arrived
					go cut()
					<-time.After(time.Second)
				}
				return at <= 100_000
			})
			cut = u.connect()
			time.Sleep(2 * time.Second)
			u.state(fleet.UpgradeFetching, "")
			at := u.size()
			if at < 100_000 || at > 110_011 {
				u.t.Errorf("%d bytes are here", at)
			}
			time.Sleep(time.Minute) // no session: nothing is tried
			u.serve, u.asked = u.send(u.content, nil), nil
			defer u.connect()()
			u.state(fleet.UpgradeInstalling, "")
			if !slices.Equal(u.asked, []int64{at}) {
				u.t.Errorf("asked from %v, want %d", u.asked, at)
			}
		},
		"a torn file begins anew": func(u *upgrading) {
			path := install.PackageFile(u.a.cfg.StateDir, u.want.Packages[0].SHA256)
			if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, make([]byte, 1000), 0o600)); err != nil {
				u.t.Fatal(err)
			}
			u.begin()
			defer u.connect()()
			time.Sleep(time.Minute)
			u.state(fleet.UpgradeInstalling, "")
			if !slices.Equal(u.asked, []int64{1000, 0}) {
				u.t.Errorf("asked from %v", u.asked)
			}
		},
		"another package than described": func(u *upgrading) {
			u.serve = u.send(bytes.ToUpper(u.content), nil)
			u.begin()
			defer u.connect()()
			time.Sleep(time.Hour)
			u.state(fleet.UpgradeRefused, "3 times the package that came")
			if !slices.Equal(u.asked, []int64{0, 0, 0}) {
				u.t.Errorf("asked from %v", u.asked)
			}
			u.handedOver(false)
		},
		"more than described": func(u *upgrading) {
			u.serve = u.send(append(u.content, "more"...), nil)
			u.begin()
			defer u.connect()()
			time.Sleep(time.Hour)
			u.state(fleet.UpgradeRefused, "3 times")
			u.handedOver(false)
		},
		"less than described": func(u *upgrading) {
			u.want.Packages[0].Size += 1000
			u.begin()
			defer u.connect()()
			time.Sleep(time.Hour)
			u.state(fleet.UpgradeFetching, "ends after 400000 of 401000 bytes")
			u.handedOver(false)
			if n := len(u.asked); n < 10 || n > 1000 {
				u.t.Errorf("asked %d times in an hour", n)
			}
		},
		"signed by another": func(u *upgrading) {
			_, other, _ := minisign.GenerateKey(nil)
			r := minisign.NewReader(bytes.NewReader(u.content))
			_, _ = r.Read(make([]byte, len(u.content)))
			u.want.Packages[0].Signature = string(r.Sign(other))
			u.begin()
			defer u.connect()()
			u.state(fleet.UpgradeRefused, "it is signed by")
			if u.asked != nil || u.size() != 0 {
				u.t.Error("it is fetched all the same")
			}
		},
		"a signature of something else": func(u *upgrading) {
			r := minisign.NewReader(strings.NewReader("other"))
			_, _ = r.Read(make([]byte, 5))
			u.want.Packages[0].Signature = string(r.Sign(u.key))
			u.begin()
			defer u.connect()()
			time.Sleep(time.Hour)
			u.state(fleet.UpgradeRefused, "is of something else")
			u.handedOver(false)
			if !slices.Equal(u.asked, []int64{0}) {
				u.t.Errorf("asked from %v", u.asked)
			}
		},
		"no keys, and then some": func(u *upgrading) {
			keys, err := os.ReadFile(u.a.cfg.Upgrades.Keys)
			if err := errors.Join(err, os.Remove(u.a.cfg.Upgrades.Keys)); err != nil {
				u.t.Fatal(err)
			}
			u.begin()
			defer u.connect()()
			u.state(fleet.UpgradeRefused, "put the public key that packages are signed by")
			if err := os.WriteFile(u.a.cfg.Upgrades.Keys, keys, 0o600); err != nil {
				u.t.Fatal(err)
			}
			time.Sleep(time.Minute)
			u.state(fleet.UpgradeInstalling, "")
		},
		"not installed as a package": func(u *upgrading) {
			u.a.cfg.Upgrades = nil
			u.begin()
			defer u.connect()()
			u.state(fleet.UpgradeRefused, "upgrade it by hand")
		},
		"over budget": func(u *upgrading) { // 150 kB a month
			u.begin()
			defer u.connect()()
			u.state(fleet.UpgradeWaiting, "it is free again on 1 February")
			if at := u.size(); at < 140_000 || at > 160_000 {
				u.t.Errorf("%d bytes came", at)
			}
			time.Sleep(31 * 24 * time.Hour) // February pays for as much again
			u.state(fleet.UpgradeWaiting, "it is free again on 1 March")
			time.Sleep(31 * 24 * time.Hour)
			u.state(fleet.UpgradeInstalling, "")
		},
		"taken back": func(u *upgrading) {
			u.serve = u.send(u.content, func(at int64, _ transport.Stream) bool {
				if at > 100_000 {
					synctest.Wait()
					u.a.upgrade.take(fleet.Upgrade{})
					time.Sleep(time.Second)
				}
				return true
			})
			u.begin()
			defer u.connect()()
			time.Sleep(time.Hour)
			u.state("", "")
			if at := u.size(); at < 100_000 || at > 120_000 {
				u.t.Errorf("%d bytes came", at)
			}
			u.handedOver(false)
		},
		"the replica is busy": func(u *upgrading) {
			serve := u.serve
			u.serve = func(_ transport.Stream, conn *wire.Conn, _ int64) {
				_ = conn.Send(wire.Refusal{Code: wire.RefusedBusy, Text: "too many at a time", RetryAfter: time.Minute})
				u.serve = serve
			}
			u.begin()
			defer u.connect()()
			time.Sleep(59 * time.Second)
			u.state(fleet.UpgradeFetching, "too many at a time")
			time.Sleep(time.Second)
			u.state(fleet.UpgradeInstalling, "")
		},
		"a stalled stream is given up": func(u *upgrading) {
			serve := u.serve
			u.serve = func(transport.Stream, *wire.Conn, int64) { u.serve = serve }
			u.begin()
			defer u.connect()()
			time.Sleep(2 * time.Minute)
			u.state(fleet.UpgradeInstalling, "")
			if !slices.Equal(u.asked, []int64{0, 0}) {
				u.t.Errorf("asked from %v", u.asked)
			}
		},
		"updates of tasks go first": func(u *upgrading) {
			u.a.spooled = 1
			u.begin()
			defer u.connect()()
			time.Sleep(5500 * time.Millisecond) // a piece a second
			synctest.Wait()
			if at := u.size(); at < 40_004 || at > 60_006 {
				u.t.Errorf("%d bytes came before the updates", at)
			}
			u.a.mu.Lock()
			u.a.spooled = 0
			u.a.mu.Unlock()
			time.Sleep(time.Second)
			u.state(fleet.UpgradeInstalling, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				policy := linkpolicy.Policy{}
				if name == "over budget" {
					policy.PerMonth = 150_000
				}
				u := newUpgrading(t, policy)
				scenario(u)
				u.stop()
			})
		})
	}
}
