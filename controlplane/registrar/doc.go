// Package registrar keeps the replicated state: hashicorp/raft behind Propose,
// Read and Follow.
//
// A leading replica runs this loop:
//
//	for l := range reg.Leadership() {
//	    stop() // end what an earlier term started
//	    if !l.Leading {
//	        continue
//	    }
//	    st, entries, err := reg.Follow(ctx) // st holds all that earlier terms committed
//	    go func() {
//	        for e := range entries { // every entry after st, in order
//	            step(e.Commands, e.Results)
//	        }
//	        // Closed: ctx ended, or the state jumped (see Follow).
//	    }()
//	}
//
// and from any number of goroutines:
//
//	results, err := reg.Propose(ctx, cmds...)  // committed by a majority, all or none
//	err = reg.Read(ctx, func(s *state.State) { ... })  // not older than any Propose that returned
//	reg.Stale(func(s *state.State) { ... })    // what this replica holds; never waits for others
//
// Commands proposed together go into one log entry; concurrent Proposes are
// packed into one as well, so that a disk and a network round trip carry as
// many commands as have arrived. Nothing waits for a timer.
//
// Whoever follows must drain the channel until its context ends: a full
// channel stops the state machine. So the loop that drains never waits for a
// Propose or a Read; it starts them in another goroutine.
//
// An entry that this version cannot read, or that reads back as something else,
// ends the replica (Failed): going on without it would give this replica another
// state than its peers. Propose refuses whatever could not be read back, so no
// command of this version does, and what a voter of an older version could not
// apply (ErrTooNew). For what a new field or kind of command must look like so
// that versions can be mixed, see state.Capability.
//
// On a full disk a replica steps down and acknowledges nothing, and goes on by
// itself when there is space (Health). Any other failed write ends it: nobody
// knows what is on the disk then.
//
// Export and Import carry the state out of one control plane and into another.
//
// Memory is the twin of one replica without disk or network; package
// registrartest holds the suite that both pass.
package registrar
