// Package state is what the replicas agree on: admitted agents, roles,
// frameworks, tasks, principals, join tokens, revocations, trust roots, and who
// asked for which change. It is the deterministic state machine behind Raft.
//
// The caller's loop, on every replica alike:
//
//	for entry := range committed {
//	    for _, c := range entry.Commands {
//	        result := st.Apply(entry.Index, c)
//	    }
//	}
//	snapshot := st.Clone() // cheap; encode it while st goes on
//
// Apply reads no clock and draws nothing at random: a command carries its time
// and its ids. Records in the maps are immutable: Apply replaces them and never
// changes one in place, so a Clone shares them safely.
//
// Heartbeats, readings, log lines and offers are not part of the state.
package state
