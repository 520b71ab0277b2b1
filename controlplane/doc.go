// Package controlplane is the shell of one replica: it makes or joins a control
// plane, opens the ports, and runs the leader while this replica leads.
//
//	err := controlplane.Init(ctx, opts)        // the first replica, once
//	err := controlplane.Join(ctx, line, opts)  // every other replica, once
//	_, _, err := controlplane.Restore(ctx, o)  // instead of Init, from a snapshot
//	err := controlplane.Run(ctx, cfg)          // serve until ctx ends
//
// The decisions are made in the core (packages leader, allocator, state and
// framework); here is the I/O: Raft behind package registrar, agents behind
// package sessions, people behind package api.
//
// The leader also keeps the trio at strength (autopilot.go): it asks the others
// how they are, lets newcomers follow before they vote, and removes a dead one
// when its replacement votes.
//
// Root and intermediates are replaced while the fleet works (rotate.go): package
// rotation decides, the leader has it done, and who leads next goes on from the
// phase in the state. A root key never leaves the replica where it was made: the
// others ask that one, over their own sessions, to sign the intermediates whose
// keys they make.
//
// Versions of the agent come from packages that operators add: files beside the
// log, which replicas fetch from each other (packages.go). Package rollout
// decides who is upgraded when, the leader records it, and each replica tells
// its own agents (upgrade.go).
//
// Clocks may be wrong and may be set. Leases, offers, filters, the wait before an
// agent counts as unreachable and Raft's time-outs run on what time.Now measures
// within one process, which a step of the clock does not touch; nothing that is
// compared with it comes out of the log. What is an instant by its nature is
// judged by the clock of the replica that leads: join tokens, tokens and
// certificates of principals, maintenance windows.
//
// Everything of a replica lies in one data directory:
//
//	replica.json        who this replica is and where it listens
//	pki/                its certificate, key and trust bundle
//	intermediate/       its issuing authority, made on this machine
//	root/               sealed root keys, on the first replica only: root.key, and
//	                    root-N.key of the one that rotation N made
//	operator/           a credential for tender, on the first replica only
//	raft/               log and snapshots
//	packages/           packages of tender-agent, by their digests
//	reset.key           the secret of QUIC's stateless resets
package controlplane
