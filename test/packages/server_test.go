package packages

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/test/e2e/bed"
)

// The life of a server: a control plane of one replica, from the packages alone.
func TestLifeOfAServer(t *testing.T) {
	b := bed.Start(t, bed.Config{Replicas: 1})
	m := newMachine(t, b.NetNS("c1"), debs(t))
	m.unit = "tenderd*"
	t.Cleanup(func() { m.off(t) })
	m.boot(t)
	argv := []string{"apt-get", "install", "-y", "-q"}
	for _, name := range []string{"tender", "tender-server"} {
		argv = append(argv, "/debs/new/"+filepath.Base(deb(t, "new", name)))
	}
	m.run(t, argv...)
	if got := m.run(t, "systemctl", "show", "-P", "ActiveState", "tenderd.service"); got != "inactive" {
		t.Errorf("before it is a replica, tenderd is %s", got)
	}
	addr := b.Addr("c1").String()
	for range 2 { // a script may say it twice
		m.run(t, "tenderd", "init", "--addr", addr, "--id", "r1")
	}
	m.prints(t, "r1 leads, term", "systemctl", "show", "-P", "StatusText", "tenderd.service")
	if got := m.sh(t, "ps -o user= -p $(systemctl show -P MainPID tenderd.service); find /var/lib/tender/server ! -user tender"); got != "tender" {
		t.Errorf("tenderd runs as, and files are of others: %s", got)
	}
	if got := m.run(t, "tender", "replicas"); !strings.Contains(got, "r1") {
		t.Errorf("tender replicas: %s", got)
	}
	if got := m.run(t, "systemctl", "is-enabled", "tenderd.service", "tenderd-backup.timer"); got != "enabled\nenabled" {
		t.Errorf("units: %s", got)
	}
	m.run(t, "systemctl", "start", "tenderd-backup.service")
	if got := m.sh(t, "cd /var/lib/tender/backup/*Z && ls && tender snapshot inspect fleet.snap >/dev/null && stat -c '%U %a' fleet.snap"); got != "fleet.snap\npassphrase\nroot.key\ntender 600" {
		t.Errorf("a backup has %s", got)
	}
	m.sh(t, "sed -i 's/^#log-level.*/log-level: debug/' /etc/tender/server.yaml; systemctl reload tenderd.service")
	m.prints(t, "settings read again", "journalctl", "-b", "-u", "tenderd.service", "-o", "cat")
	if took := m.down(t, "reboot"); took > boundDown {
		t.Errorf("a server took %v to go down", took)
	}
	m.boot(t)
	m.prints(t, "r1 leads, term", "systemctl", "show", "-P", "StatusText", "tenderd.service")
	m.run(t, "apt-get", "purge", "-y", "-q", "tender", "tender-server")
	left := m.sh(t, "getent passwd tender || true; find /etc /run /usr /var/lib/tender -iname '*tender*'; ls /var/lib/tender")
	if left != "/var/lib/tender\nbackup" {
		t.Errorf("left but for the backups: %s", left)
	}
}
