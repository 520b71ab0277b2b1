// Package harness runs the real programs of a fleet for tests: replicas and
// agents as processes, on loopback or on the nodes of a bed, each with
// directories of its own, and agents on private containerd daemons.
//
//	func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
//
//	f := harness.NewFleet(t, 3)                     // a trio that has a leader
//	a := f.Join(t, harness.AgentOptions{Runtime: harness.NewRuntime(t)})
//	a.Start(t)
//	id := f.Submit(t, client.Submit{Image: harness.Image, Command: ...})
//	task := f.End(t, id)
//	f.Leader(t).Kill(t)
//
// Everything is stopped when the test that made the fleet ends, by process id,
// and again by the kernel should the test itself be killed. What is left behind
// (containers, snapshots, shims, mounts, cgroups, a program that does not end)
// fails the test. When a test fails, the ends of all logs are printed.
package harness
