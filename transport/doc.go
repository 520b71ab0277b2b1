// Package transport carries sessions between the parties of a fleet: QUIC with
// mutual TLS 1.3 on one UDP port, told apart by ALPN. Where UDP does not pass,
// the sessions of agents go over TLS on the TCP port of the same number, their
// streams carried by yamux: same streams, same close codes, same errors. Dial
// finds out which by a short race, and LinkOf tells. Replicas speak QUIC alone
// among themselves.
//
// An agent dials, since nothing at a site listens. Dial returns before the
// replica has judged the certificate, so a session is good only once the peer
// has answered on a stream:
//
//	d, err := transport.NewDialer(transport.DialerConfig{Holder: holder})
//	defer d.Close()
//	var wait transport.Backoff
//	for ctx.Err() == nil {
//		s, err := d.Dial(ctx, addr, transport.ALPNAgent, nil)
//		if err == nil {
//			err = talk(ctx, s) // opens the control stream; wait.Reset() after Welcome
//		}
//		log.Warn("no session", "cause", transport.Explain(err))
//		sleep(ctx, wait.Next(rand.Float64()))
//	}
//
// A replica listens, and dials the other replicas from the same socket:
//
//	e, err := transport.Listen(transport.Config{Addr: ":7443", Holder: holder, Allow: allow})
//	defer e.Close() // tells every session first
//	for {
//		s, err := e.Accept(ctx, transport.ALPNAgent)
//		if err != nil {
//			return err
//		}
//		go serve(ctx, s)
//	}
//
// Who may speak what: agents agent/1, replicas raft/1, anybody enrol/1, where
// only the server shows a certificate. The endpoint enforces that before it
// asks Config.Allow, in every handshake.
//
// A session has streams of a kind; either side opens and accepts them. A
// stream is released once it was closed and read to its end, or reset.
//
// The TCP port serves HTTP, too: Endpoint.HTTP is the listener for an
// http.Server.
//
// Pair is the in-memory twin of a session; transporttest.Run is the suite that
// all three pass.
package transport
