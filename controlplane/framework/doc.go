// Package framework holds the built-in schedulers. They speak to the leader as
// outsiders do: they subscribe, state demands, and accept or decline what they
// are offered. What they must not forget (submitted tasks) is in the
// replicated state; they are built anew from it at each change of leader.
//
// The shell's loop:
//
//	run := framework.NewRun(st)
//	deliver(run.Start())                  // Subscribe and the first demands
//	for each leader.Action for framework.Run:    deliver(run.Step(event))
//
// where deliver feeds the returned leader events to leader.Step.
package framework
