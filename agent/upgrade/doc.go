// Package upgrade decides what an agent does about a version of itself that the
// control plane wants: fetch the package, verify it, hand it over to the part of
// the machine that may install it, or say why not. It is pure: whoever calls it
// has the files, the session and the clock.
//
// A decision depends on facts alone and on no decision before it, so that a cut
// link, a restart or a power loss at any time is nothing special: the facts are
// looked at anew.
//
//	for each change, and at plan.Again:
//		plan := upgrade.Decide(facts())
//		tell(plan.Status)
//		switch plan.Do {
//		case upgrade.Fetch:    // plan.Package from plan.Offset on, into its file
//		case upgrade.Discard:  // its file is none of it
//		case upgrade.Verify:   // digest and signature of its file
//		case upgrade.HandOver: // ask the machine to install it
//		}
package upgrade
