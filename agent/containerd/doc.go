// Package containerd runs tasks as containers of a containerd on this machine.
// It is the executor.Executor of the agent and the only importer of
// containerd; daemons from 1.6 (Debian 12) to 2.x will do, as only calls that
// all of them have are made.
//
//	x, err := containerd.New(containerd.Config{
//		Address:   "/run/containerd/containerd.sock",
//		LogDir:    "/var/lib/tender-agent/logs",
//		LogBinary: []string{"/usr/bin/tender-agent", "log"}, // calls tasklog.Main
//		Isolate:   isolate.Edits,
//	})
//	defer x.Close()
//
// The containers live in a containerd namespace of Tender's own and carry the
// label tender.task. Nothing in this package is remembered across restarts:
// containerd is the record.
//
// An image's unpacked layers are on the disk before a task runs on them, which
// costs the first start of each image a sync, and carry the label tender.durable.
// Layers without it that the machine had before it was started are unpacked again.
//
// A task gets the default seccomp profile (for the machine's own ABI: 32-bit
// programs are killed by it), no new privileges, a short list of
// capabilities, the devices it was assigned and no others, a network of its
// own with nothing but loopback or else the host's, and limits on processors
// (CFS quota), memory (without swap) and processes. A limit that this
// machine's kernel cannot apply makes the task invalid; it is never dropped in
// silence. A task's own limits may be above its resources; then these are its
// share of processors and of the machine's last memory. Disk space is accounted for by the control plane and not enforced.
//
// The main process is the first of its PID namespace, so the kernel delivers
// TERM only if it has a handler; a program without one is killed when its
// grace period is over.
package containerd
