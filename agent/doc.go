// Package agent is the shell of one agent: it joins a control plane, keeps a
// session with it, and carries out what the life-cycle core decides.
//
//	err := agent.Join(ctx, line, opts)   // once: key, certificate, addresses
//	err := agent.Run(ctx, cfg)           // until ctx ends
//
// One goroutine owns the core (package lifecycle): events go in, actions come
// out; what must be durable is written to the checkpoint before anything else
// is done. Containers, the session, the devices and the clock are around it.
//
// Everything of an agent lies in one state directory:
//
//	pki/            key, certificate and trust bundle
//	pki-previous/   the pair before, until the control plane has taken the new one
//	agent.json      where the replicas are
//	agent.db        the checkpoint
//	leave.json      the wish to leave the fleet, and how far that is
//	link.json       what the link has carried this month
//	logs/           what tasks print
//	packages/       the package of another version, as far as it has come
//	install/        what is asked of root (package install)
//	start/          which versions of the agent have passed their gate or have
//	                failed: agent-start's, which starts it (package gate)
//
// The session is with any replica (dial.go), over QUIC or, where UDP is blocked,
// over TCP (seek.go moves it back). Dialling puts right what it can: a
// certificate that has ended, a clock that is wrong (heal.go). A lost session
// stops nothing: tasks go on, updates wait in the checkpoint.
package agent
