// Package pki says who is who: identities in certificates, the trust bundle,
// credentials on disk, and the TLS configurations built from them.
//
// Every party of a fleet (a replica, an agent, an operator, a framework, a
// reader) has one name, spiffe://TRUST-DOMAIN/KIND/ID, in the one URI SAN of its
// certificate. Nothing else in a certificate means anything here: no common
// name, no host name, no address.
//
// A replica serves and an agent dials like this:
//
//	cred, err := pki.LoadDir(dir)
//	h := pki.NewHolder(cred)
//	server := pki.ServerTLS(h, allow, "agent/1", "raft/1", "enrol/1")
//	client := pki.ClientTLS(h, nil, "agent/1")
//
// and a machine that is not yet a member checks whom it talks to by the pin of
// its join line, before it has any bundle:
//
//	line, err := pki.ParseJoinLine(arg)
//	enrol := pki.PinnedTLS(line.Pin, pki.ALPNEnrol)
//
// Renewal puts the new credential on disk and then into the Holder; listeners
// and dialers use it from their next handshake on:
//
//	wait until pki.RenewAt(cred.Leaf(), random)
//	err = pki.SaveDir(dir, renewed)
//	h.Set(renewed)
//
// The package uses the standard library only, so that an agent links no
// certificate authority. The authority is in pki/authority, the joining
// protocol in pki/enroll.
package pki
