package packages

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/test/e2e/bed"
)

// newServer boots a machine and installs what a server needs.
func newServer(t *testing.T, b *bed.Bed) *machine {
	t.Helper()
	m := newMachine(t, b.NetNS("c1"), "", debs(t))
	m.unit = "tenderd*"
	t.Cleanup(func() { m.off(t) })
	m.boot(t)
	argv := []string{"apt-get", "install", "-y", "-q"}
	for _, name := range []string{"tender", "tender-server"} {
		argv = append(argv, "/debs/new/"+filepath.Base(deb(t, "new", name)))
	}
	m.run(t, argv...)
	return m
}

// serves waits until a replica leads, and looks at whom its files belong to.
func (m *machine) serves(t *testing.T, id string) {
	t.Helper()
	m.prints(t, id+" leads, term", "systemctl", "show", "-P", "StatusText", "tenderd.service")
	if got := m.sh(t, "ps -o user= -p $(systemctl show -P MainPID tenderd.service); find /var/lib/tender/server ! -user tender"); got != "tender" {
		t.Errorf("tenderd runs as, and files are of others: %s", got)
	}
}

// The life of a server: a control plane of one replica, from the packages alone,
// an agent of it, and a second server when the first is lost.
func TestLifeOfAServer(t *testing.T) {
	t.Parallel()
	b := bed.Start(t, bed.Config{Replicas: 1, Sites: []int{1}})
	m := newServer(t, b)
	if got := m.run(t, "systemctl", "show", "-P", "ActiveState", "tenderd.service"); got != "inactive" {
		t.Errorf("before it is a replica, tenderd is %s", got)
	}
	addr := b.Addr("c1").String()
	for range 2 { // a script may say it twice
		m.run(t, "tenderd", "init", "--addr", addr, "--id", "r1")
	}
	m.serves(t, "r1")
	if got := m.run(t, "tender", "replicas"); !strings.Contains(got, "r1") {
		t.Errorf("tender replicas: %s", got)
	}
	if got := m.run(t, "systemctl", "is-enabled", "tenderd.service", "tenderd-backup.timer"); got != "enabled\nenabled" {
		t.Errorf("units: %s", got)
	}
	m.sh(t, "sed -i 's/^#log-level.*/log-level: debug/' /etc/tender/server.yaml; systemctl reload tenderd.service")
	m.prints(t, "settings read again", "journalctl", "-b", "-u", "tenderd.service", "-o", "cat")
	if took := m.down(t, "reboot"); took > boundDown {
		t.Errorf("a server took %v to go down", took)
	}
	m.boot(t)
	m.serves(t, "r1")

	edge, pid := m.edge(t, b)
	backup := m.backup(t)
	m.off(t)
	m = newServer(t, b)
	host(t, "cp", "-r", backup, filepath.Join(m.disk, "root", "backup"))
	if got := m.sh(t, "chown -R root:root /root/backup; stat -c '%U %a' /root/backup/root.key"); got != "root 600" {
		t.Errorf("the backup's root key is %s", got)
	}
	restore := []string{
		"tenderd", "restore", "--from", "/root/backup/fleet.snap", "--root-key", "/root/backup/root.key",
		"--root-passphrase", "/root/backup/passphrase", "--addr", addr, "--id", "r2",
	}
	m.run(t, restore...)
	m.serves(t, "r2")
	if said, err := m.try(restore...); err == nil || !strings.Contains(said, "already holds replica r2") {
		t.Errorf("a second restore: %v\n%s", err, said)
	}
	m.prints(t, "unsettled", "tender", "agents")
	edge.prints(t, "connected to the control plane; 1 task", "systemctl", "show", "-P", "StatusText", "tender-agent.service")
	m.run(t, "tender", "agent", "settle", "--all", "--yes")
	m.prints(t, "  running", "tender", "ps")
	// New work comes, and the task of the time before has gone on all the while.
	m.run(t, "tender", "run", "--attach", imageName, "--", "true")
	if got := edge.taskPID(t); got != pid {
		t.Errorf("after the restore the task is process %q, before %q", got, pid)
	}
	m.run(t, "systemctl", "start", "tenderd-backup.service")
	m.servesPackages(t, edge, addr)

	m.run(t, "apt-get", "purge", "-y", "-q", "tender", "tender-server")
	left := m.sh(t, "getent passwd tender || true; find /etc /run /usr /var/lib/tender -iname '*tender*' ! -path /run/systemd/system/tender-agent.service.d; ls /var/lib/tender")
	if left != "/var/lib/tender\nbackup" {
		t.Errorf("left but for the backups: %s", left)
	}
}

// edge boots a machine behind a NAT that joins the server and runs a task.
func (m *machine) edge(t *testing.T, b *bed.Bed) (e *machine, pid string) {
	t.Helper()
	e = newMachine(t, b.NetNS("a1"), "", debs(t))
	t.Cleanup(func() { e.off(t) })
	e.boot(t)
	e.run(t, "apt-get", "install", "-y", "-q", "/debs/new/"+filepath.Base(deb(t, "new", "tender-agent")))
	line := m.sh(t, "tender token create --site cellar --ttl 1h 2>/dev/null")
	if said, err := e.input(line, "tender-agent", "join", "--name", "m1", "-"); err != nil {
		t.Fatalf("join: %v\n%s", err, said)
	}
	e.loadImage(t)
	m.run(t, "tender", "run", "--name", "kept", imageName, "--", "sh", "-c", "while :; do sleep 1; done")
	m.prints(t, "  running", "tender", "ps")
	return e, e.taskPID(t)
}

// servesPackages: the replica is the apt repository of a machine behind a NAT.
func (m *machine) servesPackages(t *testing.T, edge *machine, addr string) {
	t.Helper()
	dir := filepath.Join(m.disk, "srv/tender/repo")
	repository(t, dir, t.TempDir(), filepath.Join(debs(t), "new"))
	m.sh(t, "chmod -R u=rwX,go=rX /srv/tender; echo 'repo: /srv/tender/repo' >/etc/tender/server.conf.d/repo.yaml; systemctl restart tenderd.service")
	m.serves(t, "r2")
	edge.sh(t, fmt.Sprintf(`apt-get remove -y -q tender-agent
rm -f /etc/apt/sources.list
/usr/lib/apt/apt-helper download-file http://%[1]s:7480/tender-archive-keyring.gpg /etc/apt/keyrings/tender.gpg
echo 'deb [signed-by=/etc/apt/keyrings/tender.gpg] http://%[1]s:7480 ./' >/etc/apt/sources.list.d/tender.list
apt-get update -q && apt-get install -y -q tender-agent`, addr))
	edge.prints(t, "connected to the control plane; 1 task", "systemctl", "show", "-P", "StatusText", "tender-agent.service")
}

// backup waits for the timer, which a test asks to be early, and takes the backup
// off the machine.
func (m *machine) backup(t *testing.T) string {
	t.Helper()
	m.sh(t, `mkdir /etc/systemd/system/tenderd-backup.timer.d
printf '[Timer]\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=100ms\n' >/etc/systemd/system/tenderd-backup.timer.d/soon.conf
systemctl daemon-reload; systemctl restart tenderd-backup.timer`)
	m.prints(t, "fleet.snap", "sh", "-c", "ls /var/lib/tender/backup/*Z")
	if got := m.sh(t, "cd /var/lib/tender/backup/*Z && ls && tender snapshot inspect fleet.snap >/dev/null && stat -c '%U %a' fleet.snap"); got != "fleet.snap\npassphrase\nroot.key\ntender 600" {
		t.Errorf("a backup has %s", got)
	}
	dir := filepath.Join(t.TempDir(), "backup")
	host(t, "sh", "-ec", `cp -r "$1"/var/lib/tender/backup/*Z "$2"`, "sh", m.disk, dir)
	if _, err := os.Stat(filepath.Join(dir, "fleet.snap")); err != nil {
		t.Fatal(err)
	}
	return dir
}
