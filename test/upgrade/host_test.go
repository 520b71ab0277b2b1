package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// commands are all that the scripts use. They get no others.
var commands = []string{
	"cat", "chmod", "cmp", "cp", "cut", "dpkg-query", "grep", "head", "ln", "mkdir", "mv", "readlink", "rm", "sha256sum", "sync",
}

// host is a directory that looks like a machine.
type host struct {
	dir    string
	preset map[string]string // what a command is replaced by
}

// The files that matter, below a host's directory.
const (
	agentFile    = "usr/bin/tender-agent"
	logFile      = "usr/libexec/tender/tender-log"
	launcherFile = "usr/libexec/tender/agent-start"
	previousDir  = "usr/libexec/tender/previous"
	startDir     = "var/lib/tender/agent/start"
)

// scripts are read once, with their paths below a host's directory.
func script(t *testing.T, path, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../packaging", path))
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, p := range []string{"/usr/bin/tender-agent", "/usr/libexec/tender", "/var/lib/tender"} {
		text = strings.ReplaceAll(text, p, dir+p)
	}
	return text
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{dir: t.TempDir(), preset: map[string]string{"dpkg-query": "printf 1.2.3-1"}}
	h.shims(t)
	// What an agent does, as the shell that the fakes are copies of reads it.
	for _, arg := range []string{"run", "halt"} {
		h.put(t, "cwd/"+arg, []byte(`echo "$(/bin/readlink /proc/$$/exe)|$(/bin/cat /proc/$$/exe | /usr/bin/tail -c 8)|${AGENT_START-}"`+"\n"), 0o644)
	}
	h.launcher(t)
	if err := os.MkdirAll(h.path("var/lib/tender/agent"), 0o700); err != nil {
		t.Fatal(err)
	}
	return h
}

// shims stand for the commands where something is to be killed: each counts
// itself, and the one whose turn it is takes everything down as a power cut does,
// before it does anything, or, for a copy, half way. What was not synced is lost
// then. Else there are tools.
func (h *host) shims(t *testing.T) {
	t.Helper()
	for _, name := range commands {
		act := h.preset[name]
		if act != "" {
			h.put(t, "tools/"+name, []byte("#!/bin/sh\n"+act+"\n"), 0o755)
		} else {
			path, err := exec.LookPath(name)
			if err != nil {
				t.Fatal(err)
			}
			act = "exec " + path + ` "$@"`
			h.put(t, "tools/"+name, nil, 0)
			if err := errors.Join(os.Remove(h.path("tools/"+name)), os.Symlink(path, h.path("tools/"+name))); err != nil {
				t.Fatal(err)
			}
		}
		half := ""
		if name == "cp" {
			half = `for to; do :; done; for f; do [ ! -f "$f" ] || /usr/bin/head -c 1000 "$f" >"$to/${f##*/}"; done` + "\n"
		}
		if name == "sync" {
			act = `/usr/bin/stat -c %i "$@" >>"$COUNT.synced"; ` + act
		}
		h.put(t, "shims/"+name, fmt.Appendf(nil, `#!/bin/sh
echo %s >>"$COUNT"
n=0
while read -r _; do n=$((n + 1)); done <"$COUNT"
if [ $n -ge "$DIE_AT" ]; then
	%skill -9 0
fi
%s
`, name, half, act), 0o755)
	}
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) put(t *testing.T, name string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	// A process that another test starts meanwhile would hold the file open for
	// writing, and what is open for writing cannot be run.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := errors.Join(os.RemoveAll(h.path(name)), os.WriteFile(h.path(name), data, mode)); err != nil {
		t.Fatal(err)
	}
}

func (h *host) read(name string) string {
	data, _ := os.ReadFile(h.path(name)) // none is empty
	return string(data)
}

func (h *host) state(t *testing.T, name, text string) {
	t.Helper()
	h.put(t, filepath.Join(startDir, name), []byte(text), 0o600)
}

// fake is a program that runs on this machine and is called name, of up to eight
// letters.
func fake(t *testing.T, name string) []byte {
	t.Helper()
	sh, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	return append(sh, fmt.Sprintf("%8s", name)...)
}

// launcher puts agent-start in its place.
func (h *host) launcher(t *testing.T) {
	t.Helper()
	h.put(t, launcherFile, []byte(script(t, "libexec/agent-start", h.dir)), 0o755)
}

// install puts a pair in its place.
func (h *host) install(t *testing.T, name string) {
	t.Helper()
	h.put(t, agentFile, fake(t, name), 0o755)
	h.put(t, logFile, fake(t, name), 0o755)
}

// keepByPreinst makes a previous pair as the preinst does, with its link.
func (h *host) keepByPreinst(t *testing.T, name string) {
	t.Helper()
	h.keep(t, name)
	if err := errors.Join(os.Rename(h.path(previousDir), h.path(previousDir)+".a"), os.Symlink("previous.a", h.path(previousDir))); err != nil {
		t.Fatal(err)
	}
}

// keep makes a previous pair.
func (h *host) keep(t *testing.T, name string) {
	t.Helper()
	h.put(t, previousDir+"/tender-agent", fake(t, name), 0o755)
	h.put(t, previousDir+"/tender-log", fake(t, name), 0o755)
	h.put(t, previousDir+"/digest", []byte(digest(t, name)+"\n"), 0o644)
}

// digest is what a pair is known by.
func digest(t *testing.T, name string) string {
	t.Helper()
	sum := sha256.Sum256(append(fake(t, name), fake(t, name)...))
	return hex.EncodeToString(sum[:])
}

// dieAt is a step at which a script is killed; 0 is never.
type dieAt int

// exec runs a script of the host. Killed is whether its end came at the step.
func (h *host) exec(t *testing.T, at dieAt, argv ...string) (stdout, stderr string, killed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = h.path("cwd")
	cmd.Env = []string{"PATH=" + h.path("tools"), "AGENT_START=forged by whoever calls"}
	if at > 0 {
		count := h.path("count")
		_ = errors.Join(os.Remove(count), os.Remove(count+".synced")) // there may be none
		before := h.inodes(t)
		defer func() {
			if killed {
				h.lose(t, before)
			}
		}()
		cmd.Env = append(cmd.Env, "PATH="+h.path("shims"), "DIE_AT="+strconv.Itoa(int(at)), "COUNT="+count)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) && ended.Sys().(syscall.WaitStatus).Signaled() {
		return out.String(), said.String(), true
	}
	if err != nil {
		fmt.Fprintf(&said, "%v", err)
	}
	return out.String(), said.String(), false
}

// inodes are the files that an upgrade and a start write to, with when each was
// changed last.
func (h *host) inodes(t *testing.T) map[string]syscall.Stat_t {
	t.Helper()
	all := map[string]syscall.Stat_t{}
	for _, dir := range []string{"usr", "var"} {
		err := filepath.WalkDir(h.path(dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			var st syscall.Stat_t
			if err := syscall.Stat(path, &st); err != nil {
				return err
			}
			all[path] = st
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// lose takes away what files hold that have changed and were not synced since, as
// a loss of power may.
func (h *host) lose(t *testing.T, before map[string]syscall.Stat_t) {
	t.Helper()
	kept := map[[3]int64]bool{}
	for _, st := range before {
		kept[[3]int64{int64(st.Ino), st.Ctim.Sec, st.Ctim.Nsec}] = true
	}
	synced := strings.Fields(h.read("count.synced"))
	for path, st := range h.inodes(t) {
		if kept[[3]int64{int64(st.Ino), st.Ctim.Sec, st.Ctim.Nsec}] || slices.Contains(synced, strconv.FormatUint(st.Ino, 10)) {
			continue
		}
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// start starts the agent and returns which one runs, from where, and how it was
// told that it was started. Where none runs, which is what was said instead.
func (h *host) start(t *testing.T, args ...string) (which, mode string) {
	t.Helper()
	out, said, _ := h.exec(t, 0, append([]string{h.path(launcherFile)}, args...)...)
	parts := strings.Split(strings.TrimSpace(out), "|")
	if len(parts) != 3 {
		return "none: " + said, ""
	}
	where := "installed"
	if strings.Contains(parts[0], "/previous") {
		where = "previous"
	}
	mode, _, _ = strings.Cut(parts[2], " ")
	return where + " " + strings.TrimSpace(parts[1]), mode
}
