// Package controlplane is the shell of one replica: it makes or joins a control
// plane, opens the ports, and runs the leader while this replica leads.
//
//	err := controlplane.Init(ctx, opts)        // the first replica, once
//	err := controlplane.Join(ctx, line, opts)  // every other replica, once
//	err := controlplane.Run(ctx, cfg)          // serve until ctx ends
//
// The decisions are made in the core (packages leader, allocator, state and
// framework); here is the I/O: Raft behind package registrar, agents behind
// package sessions, people behind package api.
//
// Everything of a replica lies in one data directory:
//
//	replica.json        who this replica is and where it listens
//	pki/                its certificate, key and trust bundle
//	intermediate/       its issuing authority, made on this machine
//	root/               the sealed root key, on the first replica only
//	operator/           a credential for tender, on the first replica only
//	raft/               log and snapshots
//	reset.key           the secret of QUIC's stateless resets
package controlplane
