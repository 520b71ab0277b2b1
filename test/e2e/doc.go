// Package e2e tests the programs as people run them: real replicas, agents and
// containers on this machine, over loopback. The scenarios are tests, named as
// sentences; package harness runs the programs.
//
//	make e2e                                    # builds the programs first
//	go test ./test/e2e -run TestTheLeader       # builds them itself
//	go test ./test/e2e -run - -bench Containers
//
// Root, containerd, runc and busybox-static are needed: make deps.
package e2e
