// Package transporttest has what tests of and over sessions share.
//
// Run is the suite that every implementation of transport.Session passes:
//
//	transporttest.Run(t, func(t *testing.T, agent, replica pki.Identity) (a, r transport.Session) { ... })
//
// Net is a network in memory for whole fleets under testing/synctest, with
// latency, and links that can be cut and healed:
//
//	synctest.Test(t, func(t *testing.T) {
//		n := transporttest.NewNet(t, 20*time.Millisecond)
//		e, err := transport.Listen(transport.Config{Conn: n.Conn("10.0.0.1:7443"), ...})
//		d, err := transport.NewDialer(transport.DialerConfig{Conn: n.Conn("10.1.0.1:1000"), ...})
//		n.Cut("10.1.0.1:1000") // the site loses its uplink
//	})
package transporttest
