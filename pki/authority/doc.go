// Package authority is the one place of a fleet where certificates are signed.
// It embeds the smallstep authority in a replica's process; agents and the
// command line do not link it.
//
//	a, err := authority.New(authority.Config{
//		TrustDomain: "fleet.example", Root: root,
//		Intermediate: inter, IntermediateKey: key,
//	})
//	chain, err := a.Sign(ctx, id, csr, authority.DefaultLife)
//
// Sign is the only door, for joining and for renewal alike. Who the
// certificate is for is the caller's to decide, from a join token consumed or
// from a session whose certificate was verified; the request supplies a key
// and nothing else. No token from outside reaches the authority: it marks a
// token as used before it looks at the signature, so a stranger could burn the
// tokens of others. Instead each signature runs under a token that Sign makes
// itself, bound to that one request, with a key that lives in this process.
//
// Behind the authority stands a guard that sees every certificate last and
// signs none that has more than one name, another trust domain, another use
// than its kind, a CA bit, or a life past its issuer's. It refuses the
// authority's own renewal in every form, which was shown to prolong and to give
// away identities; renewing is asking Sign again.
package authority
