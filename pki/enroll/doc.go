// Package enroll is the one door of a fleet that stands open to strangers: a
// join secret goes in, a certificate comes out. It speaks enrol/1, one request
// and one reply over any stream, and knows nothing of what carries it.
//
// A machine that joins, with the line an operator gave it:
//
//	line, err := pki.ParseJoinLine(arg)
//	key, err := pki.NewKey()                     // made here, stays here
//	req, err := enroll.NewRequest(line, key, hostname)
//	reply, err := enroll.Run(ctx, line, dial, req) // dial checks line.Pin
//	cred, err := reply.Credential(key)
//	err = pki.SaveDir(dir, cred)
//
// A replica, for each enrol/1 connection:
//
//	srv, err := enroll.NewServer(enroll.Config{Registry: reg, Signer: authority, ...})
//	err = srv.Serve(ctx, stream, remoteAddr)
//
// Over the same door come those who are members already and cannot show it: a
// party whose certificate has ended while it slept proves its enrolled key and
// has a new certificate for a new key, and a machine whose clock is wrong asks
// for the time. Both bind what they say to the one connection:
//
//	reply, err := enroll.Heal(ctx, stream, enroll.Healing{Credential: old, NextKey: key, Exporter: x})
//	told, err := enroll.AskClock(ctx, stream, chain, x, judge, now) // of each replica
//	offset, err := enroll.Agree(tolds, len(addrs))                  // a majority decides
//
// The server does what is cheap and can be repeated first: rate, size, shape,
// clock, a look at its own copy of the tokens. Only then does it propose the
// token's use to all replicas, and only then does it sign. So strangers cannot
// make the replicas write, and a bad request burns no token. A request that
// was answered, with the answer lost on the way, may be repeated with the same
// key until the token ends.
package enroll
