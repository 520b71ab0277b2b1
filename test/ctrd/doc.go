// Package ctrd runs private containerd daemons for tests, without systemd and
// without touching the machine's own daemon: each has its own root, state and
// socket, and is stopped by its process id.
//
//	d := ctrd.Start(t, ctrd.Debian(t))     // stopped when the test ends
//	x, err := containerd.New(containerd.Config{Address: d.Address, Namespace: d.Namespace, ...})
//	...
//	d.CheckClean(t)                        // no shim, mount or cgroup is left
//
// containerd keeps shim sockets and runc's state outside of the state
// directory it is given, so every daemon gets a namespace of its own.
package ctrd
