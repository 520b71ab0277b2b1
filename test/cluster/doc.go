// Package cluster runs whole replicas and agents in one process: real Raft,
// real QUIC, real TLS, the real authority and real files. What is simulated is
// the network under QUIC and what the tasks do.
//
//	synctest.Test(t, func(t *testing.T) {
//		f := cluster.New(t, transporttest.NewNet(t, 5*time.Millisecond))
//		f.Trio()
//		a := f.Agent("gpu-1")
//		f.Submit("t1", "sleep", "10s")
//		f.Await("it ends", time.Minute, func() bool { return f.State("t1").Terminal() })
//	})
//
// In a testing/synctest bubble time is fake, so that hours pass in seconds and
// durations can be compared exactly. Without a network the sockets are UDP on
// loopback and time is real: the benchmarks of package bench use that.
//
// Everything is stopped when the test ends, and in a bubble that no goroutine
// is left is checked by the bubble itself.
package cluster
