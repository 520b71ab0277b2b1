// Package sim runs a whole fleet from one seed in one goroutine: three replicas
// agreeing on a log, the leader's offer cycle, the built-in framework and one
// from outside that forgets and is forgotten, the life-cycle core of every
// agent, and a network that loses, delays, doubles and reorders messages, while
// leaders die, agents crash, machines reboot, clocks are
// set, replicas begin anew from what they had, and operators restore snapshots.
// Beside it runs a small fleet whose agents change their keys, let their
// certificates lapse and have their disks copied.
// Clock, network, disks and executors are simulated; the cores are the real
// ones.
//
//	err := sim.Run(seed, sim.Options{})
//
// The same seed gives the same run to the last message. A failing seed is
// replayed with: go run ./test/sim/cmd -seed N -v
package sim
