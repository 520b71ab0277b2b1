// Package sessions holds the agents' connections. Every replica terminates
// agents; one of them leads. The others relay what their agents say to it, over
// one link each, and hand its answers on.
//
// Every replica, for each agent/1 connection:
//
//	m := sessions.New(config)
//	go m.Serve(ctx, conn)
//
// While it leads:
//
//	d := m.Lead(term)                 // its own sessions, and the relayed ones
//	defer d.Yield()
//	for ev := range d.Events() { ... } // AgentUp first, AgentDown last
//	d.Send(session, message)           // never blocks
//	go d.Serve(ctx, conn)              // for each relay/1 connection
//
// While another leads:
//
//	err := m.Relay(ctx, conn)          // conn is dialled to the leader; until it ends
//
// A session outlives leaders. When its replica follows a new one, the session
// is announced there, and the agent is told to say again what it holds, since
// the new leader knows nothing but the replicated state. Numbers of sessions are
// a desk's own, so nothing said to an older leader is taken for news.
//
// What version an agent is to run, and the packages of it, every replica knows
// by itself: m.Upgrade() has its sessions look. Replicas that lack a package
// fetch it from each other, by streams of a relay/1 connection of their own.
//
// What an agent reads off its machine is soft: of readings the last one counts,
// and it waits for other traffic on the link. A slow agent or replica never
// holds up the leader: what is for it is coalesced, and a session whose queue
// is over its bound is closed.
package sessions
