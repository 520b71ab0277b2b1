// Package gate decides whether an agent that was just installed is as good as
// the one before it. It is a value that is told what happens, and when:
//
//	g := gate.New(now, limits)
//	for ev := range events {
//		switch v := g.Step(now, ev); {
//		case v.Passed:       // this version may stay: nothing is to be asked again
//		case v.Failed != "": // it must go, and this is why
//		}
//	}
//
// What it demands, it demands of this version and not of the site: a machine
// whose uplink is cut, whose container runtime is not installed yet or whose
// identity was revoked says nothing about a version. So it passes when, for a
// steady minute, its loop has turned, the container runtime has answered, and
// there was a session or nobody to have one with. It fails when for five minutes
// replicas have answered and no session has come of it, the runtime has answered
// with errors, or no replica was tried. An agent that crashes or hangs needs no
// gate: whoever starts it counts how often it had to.
//
// The rule for what an agent writes while it is on trial: everything that it
// does, the version before must be able to read, because that one may have to go
// on with it. A new format is written only by a version whose predecessor reads
// it already.
package gate
