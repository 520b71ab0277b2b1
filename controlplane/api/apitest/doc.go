// Package apitest is a control plane in memory for tests of the API and of
// what speaks to it: the real state, leader and run framework in one process,
// with a clock that stands still and agents that act out the tasks they get.
//
//	f := apitest.New()
//	f.AddAgent("gpu-1", apitest.Capacity("8", "16384"), fleet.Agent{Site: "lab"})
//	h := api.Handler(f, f.Options())
//
// A task's command says what its agent does with it:
//
//	echo TEXT...    prints TEXT on stdout and exits with 0
//	warn TEXT...    prints TEXT on stderr and exits with 0
//	exit N          exits with N
//	signal N        is ended by signal N
//	oom             runs out of memory
//	nostart         cannot be started
//	hold            starts for ever, and cannot be stopped
//	wait            runs until it is stopped, or ended by Finish
package apitest
