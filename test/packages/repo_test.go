package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/test/vm"
)

// repository makes a repository with the key in a directory.
func repository(t *testing.T, out, keys string, what ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../../packaging/repo", append([]string{out}, what...)...)
	cmd.Env = append(os.Environ(), "TENDER_REPO_KEY=", "TENDER_REPO_KEYS="+keys)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make a repository: %v\n%s", err, said)
	}
}

// A machine without a network, and without a container runtime, gets all it needs
// from a stick. What is not signed by the key it trusts, it does not install.
func TestRepository(t *testing.T) {
	t.Parallel()
	stick, keys := t.TempDir(), t.TempDir()
	repo := filepath.Join(stick, "repo")
	runtime, err := filepath.Glob(filepath.Join(vm.Root(t, "bookworm"), "var/cache/apt/archives", "*.deb"))
	if err != nil || len(runtime) == 0 {
		t.Fatalf("the machine's root keeps no packages of Debian: %v", err)
	}
	what := []string{filepath.Join(debs(t), "new")}
	for _, f := range runtime {
		if name := filepath.Base(f); strings.HasPrefix(name, "containerd_") || strings.HasPrefix(name, "runc_") {
			what = append(what, f)
		}
	}
	repository(t, repo, keys, what...)
	first, err := os.ReadFile(filepath.Join(repo, "tender-archive-keyring.gpg"))
	if err != nil {
		t.Fatal(err)
	}
	repository(t, repo, keys, what...) // the key is made once
	if again, err := os.ReadFile(filepath.Join(repo, "tender-archive-keyring.gpg")); err != nil || string(again) != string(first) {
		t.Errorf("a second repository has another key: %v", err)
	}
	altered := filepath.Join(stick, "altered")
	host(t, "cp", "-r", repo, altered)
	host(t, "sh", "-ec", "for f in \"$1\"/tender-agent_*.deb; do printf x | dd of=\"$f\" bs=1 seek=100000 conv=notrunc status=none; done", "sh", altered)
	// Whoever has altered a package and the index can only sign with a key of his own.
	repository(t, filepath.Join(stick, "forged"), t.TempDir(), what...)
	// An index that fits the altered packages, under the signature of another.
	patched := filepath.Join(stick, "patched")
	host(t, "cp", "-r", altered, patched)
	host(t, "sh", "-ec", `cd "$1"; apt-ftparchive packages . >Packages; gzip -9nkf Packages`, "sh", patched)

	m := newMachine(t, "", "", debs(t))
	m.shares["media/stick"] = stick
	t.Cleanup(func() { m.off(t) })
	m.boot(t)
	m.run(t, "apt-get", "purge", "-y", "-q", "containerd", "runc")
	m.sh(t, "apt-get clean; rm /etc/apt/sources.list; cp /media/stick/repo/tender-archive-keyring.gpg /etc/apt/keyrings/")
	source := func(name string) {
		m.sh(t, "rm -rf /var/lib/apt/lists/*; echo 'deb [signed-by=/etc/apt/keyrings/tender-archive-keyring.gpg] file:/media/stick/"+name+" ./' >/etc/apt/sources.list.d/tender.list")
	}
	refused := func(name, text string) {
		t.Helper()
		source(name)
		said, err := m.try("sh", "-c", "apt-get update -q && apt-get install -y -q tender-agent")
		if err == nil || !strings.Contains(said, text) {
			t.Errorf("%s: %v, want %q in\n%s", name, err, text, said)
		}
		if state, _ := m.try("dpkg-query", "-W", "-f", "${db:Status-Status}", "tender-agent"); state == "installed" {
			t.Fatalf("%s: the package is installed", name)
		}
	}
	refused("forged", "NO_PUBKEY")
	refused("patched", "Failed to fetch file:/media/stick/patched/./Packages.gz")
	refused("altered", "Hash Sum mismatch") // of the package, for the index is as it was signed
	source("repo")
	m.sh(t, "apt-get update -q; apt-get install -y -q tender-agent")
	if got := m.sh(t, "dpkg-query -W -f '${Package} ${db:Status-Status}\n' containerd runc tender-agent; systemctl is-active containerd.service; systemctl is-enabled tender-agent.service"); got !=
		"containerd installed\nrunc installed\ntender-agent installed\nactive\nenabled" {
		t.Errorf("after the installation:\n%s", got)
	}
}
