// Package vm boots Debian machines that have a kernel of their own, in QEMU: for
// what the kernel of this host cannot show. Control groups are of version 2 there,
// with every controller, as Debian and Ubuntu have them; and a machine can lose its
// power, with all that was not synced.
//
//	m := vm.New(t, vm.Config{Suite: "bookworm", Files: map[string]string{"debs": dir}})
//	m.Boot(t)
//	out, err := m.Run(ctx, "", "dpkg", "-i", "/debs/tender-agent.deb")
//	m.Cut(t) // the power is gone
//	m.Boot(t)
//
// A machine sees the network that its namespace sees, through a NAT that is QEMU's.
// It needs root, to make the disks. With /dev/kvm a boot takes seconds, without it
// ten times as long. The disk that all machines of a release begin with is made
// once and kept in the user's cache.
package vm
