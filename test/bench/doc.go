// Package bench measures a whole control plane: three replicas in one process
// with their logs on disk and QUIC on loopback.
//
//	go test -run '^$' -bench . ./test/bench
//	go test -run '^$' -bench Launches -benchtime 50000x -cpuprofile cpu.out ./test/bench
//
// Everything shares the machine's processors: the three replicas, the agents
// and those who submit. test/README.md has the figures.
package bench
