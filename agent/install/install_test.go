package install_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"aead.dev/minisign"

	"github.com/tenderfleet/tender/agent/install"
	"github.com/tenderfleet/tender/agent/upgrade"
	"github.com/tenderfleet/tender/transport/fleet"
)

// site is a machine in a directory, with a dpkg of its own that notes what it is
// told to do.
type site struct {
	t *testing.T
	*install.Machine
	dir string
	key minisign.PrivateKey
}

// dpkg acts on packages that are lines of text: name, version, architecture. It
// fails as long as the file "broken" is there.
const dpkg = `#!/bin/sh
case "$(basename "$0") $*" in
"dpkg --print-architecture") echo amd64 ;;
"dpkg-query --show --showformat=\${Version} tender-agent") cat "$0.version" || { echo "no packages found matching tender-agent" >&2; exit 1; } ;;
"dpkg-query --show --showformat=\${db:Status-Status}"*) cat "$DIR/shelf" ;;
"dpkg-deb --show"*) for f; do :; done; [ "$(wc -l <"$f")" -ge 3 ] || { echo "is not a Debian format archive" >&2; exit 2; }; cat "$f"; echo ", " ;;
"dpkg --compare-versions"*) exec /usr/bin/dpkg "$@" ;;
"dpkg --force-confold --configure -a") echo configure >>"$DIR/log"; rm -f "$DIR/admin/updates/"* ;;
"dpkg --force-confold --install"*)
	[ "$DPKG_FRONTEND_LOCKED$DEBIAN_FRONTEND" = 1noninteractive ] || exit 3
	[ ! -e "$DIR/broken" ] || { echo "cannot unpack" >&2; exit 1; }
	echo "install $(sed -n 2p "$3")" >>"$DIR/log"; sed -n 2p "$3" >"$DIR/bin/dpkg-query.version" ;;
*) echo "what is $0 $*" >&2; exit 9 ;;
esac
`

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	pub, key, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, key: key, Machine: &install.Machine{
		Agent: dir + "/agent", Dir: dir + "/root", Keys: dir + "/release.pub",
		Dpkg: install.Dpkg{Bin: dir + "/bin", Admin: dir + "/admin"},
		Log:  slog.New(slog.DiscardHandler),
	}}
	for _, d := range []string{"agent/packages", "bin", "admin/updates"} {
		s.must(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, name := range []string{"dpkg", "dpkg-deb", "dpkg-query"} {
		s.must(os.WriteFile(filepath.Join(dir, "bin", name), []byte(strings.ReplaceAll(dpkg, "$DIR", dir)), 0o755))
	}
	s.write("bin/dpkg-query.version", "0.1.1-1\n")
	s.write("shelf", "installed\tlibc6\t2.36-9\tlibc6-2.36\ninstalled\tcontainerd.io\t1.7-1\tcontainerd, runc (= 1.1)\nconfig-files\tsystemd\t252\t\n")
	s.write("release.pub", string(install.Keys{pub}.Text()))
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) write(name, text string) {
	s.t.Helper()
	s.must(os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644))
}

// log is what dpkg did.
func (s *site) log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\n", ";")
}

const good = "tender-agent\n0.1.2-1\namd64\n"

// describe signs a package.
func (s *site) describe(content string) upgrade.Request {
	sum := sha256.Sum256([]byte(content))
	r := minisign.NewReader(strings.NewReader(content))
	_, err := io.Copy(io.Discard, r)
	s.must(err)
	return upgrade.Request{Rollout: "r1", Version: "v0.1.2", Package: fleet.Package{
		Arch: "amd64", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content)), Signature: string(r.Sign(s.key)),
	}}
}

// ask fetches a package and asks for it.
func (s *site) ask(content string) upgrade.Request {
	s.t.Helper()
	r := s.describe(content)
	s.must(os.WriteFile(install.PackageFile(s.Agent, r.Package.SHA256), []byte(content), 0o600))
	s.must(install.Ask(s.Agent, r))
	return r
}

func (s *site) answer() upgrade.Answer {
	s.t.Helper()
	a, err := install.ReadAnswer(s.Dir)
	s.must(err)
	return a
}

// answered checks that nothing is left of the request.
func (s *site) answered() {
	s.t.Helper()
	if _, err := os.Lstat(s.Agent + "/install/request"); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("the request is there, and would be carried out again: %v", err)
	}
}

func TestInstall(t *testing.T) {
	s := newSite(t)
	s.must(s.Install(t.Context())) // nobody asks
	r := s.ask(good)
	if got, _, err := install.Asked(s.Agent); err != nil || got != r {
		t.Errorf("asked for %+v, %v", got, err)
	}
	s.must(s.Install(t.Context()))
	s.answered()
	if got := s.log(); got != "install 0.1.2-1;" {
		t.Errorf("dpkg did %q", got)
	}
	want := upgrade.Answer{Rollout: "r1", Version: "v0.1.2", SHA256: r.Package.SHA256, Installed: true}
	if got := s.answer(); got != want {
		t.Errorf("answer %+v", got)
	}
	// The same request, as after a crash or from an agent that has gone mad.
	s.must(install.Ask(s.Agent, r))
	s.must(s.Install(t.Context()))
	s.answered()
	r.Rollout = "r2" // but an operator may want it again
	s.must(install.Ask(s.Agent, r))
	s.must(s.Install(t.Context()))
	if got := s.log(); got != "install 0.1.2-1;install 0.1.2-1;" {
		t.Errorf("dpkg did %q", got)
	}
	if left, err := filepath.Glob(s.Dir + "/*.deb"); err != nil || left != nil {
		t.Errorf("left: %v", left)
	}
}

func TestRefusals(t *testing.T) {
	secret := "a line that only root may read"
	for name, tc := range map[string]struct {
		content string
		before  func(*site)                             // before it is asked
		change  func(s *site, r *upgrade.Request) error // of what the agent has written
		text    string
	}{
		"no keys": {good, nil, func(s *site, _ *upgrade.Request) error { return os.Remove(s.Keys) }, "put the public key"},
		"no usable keys": {
			good, nil, func(s *site, _ *upgrade.Request) error { return os.WriteFile(s.Keys, []byte("RWx\n"), 0o600) },
			"line 1 is no public key",
		},
		"another key": {good, nil, func(s *site, r *upgrade.Request) error {
			_, other, err := minisign.GenerateKey(nil)
			s.key = other
			*r = s.describe(good)
			return err
		}, "it is signed by"},
		"a signature of something else": {good, nil, func(s *site, r *upgrade.Request) error {
			r.Package.Signature = s.describe("tender-agent\n0.1.2-1\nother\n").Package.Signature
			return nil
		}, "is of something else"},
		"a signature by a key of the same name": {good, nil, func(s *site, r *upgrade.Request) error {
			var mine, other minisign.Signature
			_, key, err := minisign.GenerateKey(nil)
			s.must(mine.UnmarshalText([]byte(r.Package.Signature)))
			s.key = key
			s.must(other.UnmarshalText([]byte(s.describe(good).Package.Signature)))
			other.KeyID = mine.KeyID
			text, _ := other.MarshalText()
			r.Package.Signature = string(text)
			return err
		}, "is of something else"},
		"a signature of the legacy form": {good, nil, func(s *site, r *upgrade.Request) error {
			r.Package.Signature = string(minisign.Sign(s.key, []byte(good)))
			return nil
		}, "legacy form"},
		"no signature": {good, nil, func(_ *site, r *upgrade.Request) error { r.Package.Signature = "trust me"; return nil }, "none of minisign"},
		"another content": {good, nil, func(s *site, r *upgrade.Request) error {
			return os.WriteFile(install.PackageFile(s.Agent, r.Package.SHA256), []byte(strings.Replace(good, "-1", "-2", 1)), 0o600)
		}, "SHA-256"},
		"longer":  {good, nil, func(_ *site, r *upgrade.Request) error { r.Package.Size--; return nil }, "it has not"},
		"shorter": {good, nil, func(_ *site, r *upgrade.Request) error { r.Package.Size++; return nil }, "it has not"},
		"no package": {good, nil, func(s *site, r *upgrade.Request) error {
			return os.Remove(install.PackageFile(s.Agent, r.Package.SHA256))
		}, "no such file"},
		"a directory": {good, nil, replaced(func(path string) error { return os.Mkdir(path, 0o755) }), "no plain file"},
		"a pipe":      {good, nil, replaced(func(path string) error { return syscall.Mkfifo(path, 0o644) }), "no plain file"},
		"a link to a secret": {good, nil, func(s *site, r *upgrade.Request) error {
			s.write("secret", secret)
			return replaced(func(path string) error { return os.Symlink(s.dir+"/secret", path) })(s, r)
		}, "too many levels of symbolic links"},
		"a hard link": {good, nil, func(s *site, r *upgrade.Request) error {
			return os.Link(install.PackageFile(s.Agent, r.Package.SHA256), s.dir+"/other")
		}, "no plain file"},
		"packages elsewhere": {good, nil, func(s *site, _ *upgrade.Request) error {
			return errors.Join(os.Rename(s.Agent+"/packages", s.dir+"/elsewhere"), os.Symlink("../elsewhere", s.Agent+"/packages"))
		}, "not a directory"},
		"not a package":     {"rubbish", nil, nil, "no Debian package: dpkg-deb: exit status 2: is not a Debian format archive"},
		"a package of bash": {"bash\n0.1.2-1\namd64\n", nil, nil, `it is a package of "bash"`},
		"for arm64":         {"tender-agent\n0.1.2-1\narm64\n", nil, nil, "it is for arm64, this machine is of amd64"},
		"another version":   {"tender-agent\n0.1.3-1\namd64\n", nil, nil, "it has version 0.1.3-1, not v0.1.2"},
		"older":             {good, func(s *site) { s.write("bin/dpkg-query.version", "0.1.10-1\n") }, nil, "0.1.2-1 is older than 0.1.10-1, which is installed; write allow-downgrade: true"},
		"never installed":   {good, func(s *site) { s.must(os.Remove(s.dir + "/bin/dpkg-query.version")) }, nil, "was not installed here as a package"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if tc.before != nil {
				tc.before(s)
			}
			r := s.ask(tc.content)
			if tc.change != nil {
				s.must(tc.change(s, &r))
				s.must(install.Ask(s.Agent, r))
			}
			for range 2 { // and it stays refused
				s.must(s.Install(t.Context()))
				s.answered()
				a := s.answer()
				if a.Installed || a.Rollout != "r1" || !strings.Contains(a.Text, tc.text) || strings.Contains(a.Text, secret) {
					t.Errorf("answer %+v, want %q in it", a, tc.text)
				}
				s.must(install.Ask(s.Agent, r))
			}
			if got := s.log(); got != "" {
				t.Errorf("dpkg did %q", got)
			}
		})
	}
}

// replaced puts something else where the package is.
func replaced(by func(path string) error) func(*site, *upgrade.Request) error {
	return func(s *site, r *upgrade.Request) error {
		path := install.PackageFile(s.Agent, r.Package.SHA256)
		return errors.Join(os.Remove(path), by(path))
	}
}

// What dpkg would find out too late.
func TestDependencies(t *testing.T) {
	for depends, lacks := range map[string]string{
		"":                                       "",
		", ":                                     "",
		", libc6":                                "",
		"libc6 (>= 2.34), libc6:any (<< 3)":      "",
		"nothing | containerd.io (>= 1.7), runc": "",
		"libc6 (>= 2.37)":                        "libc6 (>= 2.37)",
		"libc6 (>= 2.36-9), systemd, libc6 (<<2)": "systemd, libc6 (<<2)",
		"runc (>= 1.0)": "runc (>= 1.0)",
		"nothing | nobody (= 1), libc6 | nothing ": "nothing | nobody (= 1)",
	} {
		s := newSite(t)
		s.ask(good + depends)
		s.must(s.Install(t.Context()))
		switch a := s.answer(); {
		case lacks == "" && !a.Installed, lacks != "" && (a.Installed || !strings.Contains(a.Text, "does not have: "+lacks+";")):
			t.Errorf("%q: %+v, want that it lacks %q", depends, a, lacks)
		}
	}
}

func TestDowngradeThatIsAllowed(t *testing.T) {
	s := newSite(t)
	s.AllowDowngrade = true
	s.write("bin/dpkg-query.version", "0.1.10-1\n")
	s.ask(good)
	s.must(s.Install(t.Context()))
	if a := s.answer(); !a.Installed {
		t.Errorf("answer %+v", a)
	}
}

// What is no request is thrown away, whatever it is, and touches nothing else.
func TestHostileRequests(t *testing.T) {
	for name, put := range map[string]func(s *site, path string) error{
		"rubbish": func(_ *site, path string) error { return os.WriteFile(path, []byte("{"), 0o600) },
		"huge":    func(_ *site, path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 1<<20), 0o600) },
		"a tree":  func(_ *site, path string) error { return os.MkdirAll(path+"/a/b", 0o755) },
		"a pipe":  func(_ *site, path string) error { return syscall.Mkfifo(path, 0o644) },
		"a link":  func(s *site, path string) error { return os.Symlink(s.dir+"/release.pub", path) },
		"a way out": func(_ *site, path string) error {
			return os.WriteFile(path, []byte(`{"rollout":"r","version":"v","arch":"a","sha256":"../../x","size":1,"signature":"s"}`), 0o600)
		},
		"strange":    func(_ *site, path string) error { return os.WriteFile(path, []byte(`{"rollout":"$(x)"}`), 0o600) },
		"no version": func(_ *site, path string) error { return os.WriteFile(path, []byte(`{"rollout":"r"}`), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.must(os.Mkdir(s.Agent+"/install", 0o755))
			s.must(put(s, s.Agent+"/install/request"))
			s.must(s.Install(t.Context()))
			s.answered()
			if _, err := install.ReadKeys(s.Keys); err != nil {
				t.Error(err)
			}
			if got := s.log(); got != "" {
				t.Errorf("dpkg did %q", got)
			}
		})
	}
	t.Run("the directory is a link", func(t *testing.T) {
		s := newSite(t)
		s.must(os.Mkdir(s.dir+"/elsewhere", 0o755))
		s.write("elsewhere/request", "root's")
		s.must(os.Symlink(s.dir+"/elsewhere", s.Agent+"/install"))
		err := s.Install(t.Context())
		if err == nil {
			t.Error("it says that all is done")
		}
		if _, err := os.Stat(s.dir + "/elsewhere/request"); err != nil {
			t.Errorf("a file of somebody else: %v", err)
		}
	})
}

type crash string

// Wherever the process ends, the next one installs the package or has done so.
func TestCrashes(t *testing.T) {
	var steps []string
	s := newSite(t)
	s.OnStep(func(name string) { steps = append(steps, name) })
	s.ask(good)
	s.must(s.Install(t.Context()))
	if len(steps) < 6 {
		t.Fatalf("steps %v", steps)
	}
	for _, at := range steps {
		t.Run(at, func(t *testing.T) {
			s := newSite(t)
			s.ask(good)
			s.OnStep(func(name string) {
				if name == at {
					s.write("admin/updates/0001", "") // dpkg's own journal
					panic(crash(name))
				}
			})
			func() {
				defer func() {
					if _, ok := recover().(crash); !ok {
						t.Error("no crash")
					}
				}()
				_ = s.Install(t.Context())
			}()
			s.OnStep(func(string) {})
			s.must(s.Install(t.Context()))
			s.answered()
			if a := s.answer(); !a.Installed {
				t.Errorf("answer %+v", a)
			}
			switch got := s.log(); got {
			case "configure;install 0.1.2-1;", "install 0.1.2-1;configure;install 0.1.2-1;", "install 0.1.2-1;":
			default:
				t.Errorf("dpkg did %q", got)
			}
		})
	}
}

// A machine that goes down each time is left alone in the end.
func TestEndlessCrashes(t *testing.T) {
	s := newSite(t)
	s.ask(good)
	s.OnStep(func(name string) {
		if name == "counted" {
			panic(crash(name))
		}
	})
	n := 0
	for crashed := true; crashed && n < 20; n++ {
		func() {
			defer func() { crashed = recover() != nil }()
			s.must(s.Install(t.Context()))
		}()
	}
	s.answered()
	if a := s.answer(); n != 6 || a.Installed || !strings.Contains(a.Text, "was begun 5 times") {
		t.Errorf("after %d starts: %+v", n, a)
	}
}

// What dpkg cannot do now it may do later, but not for ever.
func TestDpkgFails(t *testing.T) {
	s := newSite(t)
	s.write("broken", "")
	s.ask(good)
	for n := range 4 {
		if err := s.Install(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot unpack") {
			t.Fatalf("try %d: %v", n, err)
		}
		if a := s.answer(); a != (upgrade.Answer{}) {
			t.Fatalf("answered after try %d: %+v", n, a)
		}
	}
	t.Run("and then works", func(t *testing.T) {
		other := newSite(t)
		other.write("broken", "")
		other.ask(good)
		_ = other.Install(t.Context())
		other.must(os.Remove(other.dir + "/broken"))
		other.must(other.Install(t.Context()))
		if a := other.answer(); !a.Installed {
			t.Errorf("answer %+v", a)
		}
	})
	s.must(s.Install(t.Context()))
	s.answered()
	if a := s.answer(); a.Installed || !strings.Contains(a.Text, "dpkg: exit status 1: cannot unpack") {
		t.Errorf("answer %+v", a)
	}
}

func TestKeys(t *testing.T) {
	a, _, _ := minisign.GenerateKey(nil)
	b, _, _ := minisign.GenerateKey(nil)
	text := fmt.Sprintf("# ours\nuntrusted comment: x\n%s\n\n  %s\r\n", a, b)
	keys, err := install.ParseKeys([]byte(text))
	if err != nil || len(keys) != 2 || !keys[0].Equal(a) || !keys[1].Equal(b) {
		t.Fatalf("%v, %v", keys, err)
	}
	path := filepath.Join(t.TempDir(), "release.pub")
	if _, err := install.ReadKeys(path); !errors.Is(err, install.ErrNoKeys) {
		t.Errorf("without a file: %v", err)
	}
	if pinned, err := install.Pin(path, keys[:1]); err != nil || !pinned {
		t.Errorf("pinned %v, %v", pinned, err)
	}
	if pinned, err := install.Pin(path, keys[1:]); err != nil || pinned {
		t.Errorf("pinned again: %v, %v", pinned, err)
	}
	got, err := install.ReadKeys(path)
	if err != nil || len(got) != 1 || !got[0].Equal(a) {
		t.Errorf("%v, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// A request from whoever may have written it is refused or means one thing.
func FuzzRequest(f *testing.F) {
	good, err := install.EncodeRequest(upgrade.Request{Rollout: "r1", Version: "v0.1.2", Package: fleet.Package{
		Arch: "amd64", SHA256: strings.Repeat("0a", 32), Size: 9, Signature: "s",
	}})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(good), "", "{}", `{"size":1e99}`, `{"rollout":"r","version":"-v","arch":"a/../b"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := install.DecodeRequest(data)
		if err != nil {
			return
		}
		if strings.ContainsAny(string(r.Rollout)+r.Version+r.Package.SHA256, "/ \n") || r.Package.Size > fleet.MaxPackageSize {
			t.Errorf("accepted: %+v", r)
		}
		again, err := install.EncodeRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := install.DecodeRequest(again); err != nil || got != r {
			t.Errorf("%+v became %+v, %v", r, got, err)
		}
	})
}
