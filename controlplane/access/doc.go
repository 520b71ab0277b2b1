// Package access says who asks, and what they may do.
//
// Whoever serves requests has a Gate and asks it first:
//
//	gate := access.Gate{Replica: id, State: stale, Now: time.Now}
//	who, err := gate.Who(r)                  // *Refusal: 401
//	if err == nil {
//	    err = who.May(access.ActOnTasks)     // *Refusal: 403
//	}
//	if err == nil && !who.MayUse(role) { ... }
//	cmd.By = who.String()                    // for the audit log
//
// A request shows a client certificate, a bearer token, or comes over the
// socket of a replica; never two of them. Mesos's frameworks show the token by
// HTTP's basic authentication, with their name as the user's.
//
// A token reads NAME.SECRET. The secret has 256 bits and the state holds the
// hash of the whole; the name in front is what the record is found by, so that
// one comparison in constant time decides.
//
// A follower that passes a request on to the leader does so with its own
// certificate and says who asked (Gate.PassOn). The leader believes that of a
// replica and of nobody else, and judges the principal itself; the socket of a
// replica is vouched for only by that replica.
//
// Nothing here blocks. Everything but Gate is a pure function of the state.
package access
