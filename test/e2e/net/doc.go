// Package net breaks a fleet's network and its machines, and checks what is
// promised of it then. Replicas, agents, containerd and the kernel's routers are
// real (packages harness and bed); each scenario is one entry of a table, whose
// name says the fault and what must come of it. The numbers are those of the
// table of faults in test/README.md.
//
// Scenarios that need no fleet of their own share one. Each ends its fault, and
// then the fleet must be whole again: one leader that all replicas follow, every
// agent connected, a task on each agent that has run since before the first
// fault with the same process, started once, and a new task that ends well
// there.
//
//	make e2e
//	go test ./test/e2e/net -run 'TestReplicasFail/5_'
//	TENDER_CHAOS_SECONDS=600 go test ./test/e2e/net -run Linear
//	TENDER_KILL_ROUNDS=100 go test ./test/e2e/net -run Kill
//
// Root is needed, and what `make deps` installs.
package net
