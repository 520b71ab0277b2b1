package vm

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Packages that a machine has before Tender's come: what these depend on.
const basePackages = "systemd,systemd-sysv,dbus,containerd,runc,procps,init-system-helpers"

var making sync.Mutex

// cached returns a directory that is filled once and kept in the user's cache.
func cached(t testing.TB, name string, fill func(dir string)) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "tender-test", name)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	tmp := dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	fill(tmp)
	if err := os.Rename(tmp, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Root returns the root of a release with the packages that Tender's depend on,
// without a kernel. It must not be changed.
func Root(t testing.TB, suite string) string {
	t.Helper()
	making.Lock()
	defer making.Unlock()
	return root(t, suite)
}

func root(t testing.TB, suite string) string {
	t.Helper()
	return cached(t, "debian-"+suite, func(dir string) {
		host(t, "debootstrap", "--variant=minbase", "--include="+basePackages, suite, dir)
		host(t, "systemctl", "--root="+dir, "mask", "systemd-timesyncd.service", "systemd-networkd.service", "systemd-resolved.service",
			"getty@tty1.service", "console-getty.service", "getty-static.service")
	})
}

// prepare makes a root one that boots in a virtual machine.
const prepare = `
printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
chmod +x usr/sbin/policy-rc.d
# The cloud kernel has drivers for what virtual machines have, and no others.
systemd-nspawn -q -D . --register=no --keep-unit --pipe --bind-ro=/etc/resolv.conf -E DEBIAN_FRONTEND=noninteractive sh -ec '
	apt-get update -qq
	mkdir -p /etc/initramfs-tools/conf.d /usr/share/initramfs-tools/modules.d
	echo MODULES=list >/etc/initramfs-tools/conf.d/vm
	printf "%s\n" virtio_pci virtio_blk ext4 >/usr/share/initramfs-tools/modules.d/vm
	apt-get install -y -qq --no-install-recommends linux-image-cloud-amd64 initramfs-tools udev kmod iproute2 >/dev/null
	apt-get clean'
rm usr/sbin/policy-rc.d
rm -rf var/lib/apt/lists/*
mkdir -p files etc/systemd/network
cat >etc/systemd/network/lan.network <<'END'
[Match]
Name=eth0
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
END
cat >etc/systemd/system/guest.service <<'END'
[Unit]
Description=What a test does on this machine
[Service]
ExecStart=/usr/local/sbin/guest
Restart=always
RestartSec=100ms
StandardError=journal+console
[Unit]
StartLimitIntervalSec=0
[Install]
WantedBy=multi-user.target
END
cat >usr/local/sbin/guest <<'END'
#!/bin/sh -e
if [ ! -e /files/.guest ]; then
	mount -o ro /dev/vdb /files
	for d in /files/*/; do
		at=/$(basename "$d")
		[ "$at" != /lost+found ] || continue
		mkdir -p "$at"
		mount --bind "$d" "$at"
	done
fi
exec /files/.guest /dev/virtio-ports/shell
END
chmod +x usr/local/sbin/guest
rm -f etc/systemd/system/systemd-networkd.service
systemctl --root=. enable guest.service systemd-networkd.service
systemctl --root=. mask serial-getty@ttyS0.service
`

// image returns the directory of a release's kernel, initrd and disk.
func image(t testing.TB, suite string) string {
	t.Helper()
	making.Lock()
	defer making.Unlock()
	base := root(t, suite)
	if runtime.GOARCH != "amd64" {
		t.Fatal("virtual machines are made for amd64 only so far")
	}
	made := sha256.Sum256([]byte(prepare))
	return cached(t, fmt.Sprintf("vm-%s-%x", suite, made[:4]), func(dir string) {
		tree := filepath.Join(dir, "tree")
		host(t, "cp", "-a", base, tree)
		host(t, "sh", "-ec", "cd "+tree+"\n"+prepare)
		host(t, "sh", "-ec", fmt.Sprintf("mv %[1]s/boot/vmlinuz-* %[2]s/kernel; mv %[1]s/boot/initrd.img-* %[2]s/initrd", tree, dir))
		host(t, "mke2fs", "-q", "-t", "ext4", "-d", tree, filepath.Join(dir, "disk"), "4G")
		host(t, "rm", "-rf", tree)
	})
}

// host runs a program here.
func host(t testing.TB, argv ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}
