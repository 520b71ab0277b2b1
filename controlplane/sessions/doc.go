// Package sessions holds the agents' connections to a leading replica: it
// turns their messages into leader events and the leader's actions into
// messages, and keeps what agents read off their machines, which is soft.
//
// The replica's loop:
//
//	m := sessions.New(config)
//	term := m.Lead(termNumber)              // begin to admit agents
//	for ev := range m.Events() { ... }      // AgentUp first, AgentDown last
//	m.Send(agent, session, message)         // never blocks
//	m.Yield("another replica leads")        // on loss of leadership: end all
//
// and for every agent/1 connection: go m.Serve(ctx, session).
//
// A slow agent never holds up the leader: acknowledgements and desired sets for
// it are coalesced, and a session whose queue is over its bound is closed.
package sessions
