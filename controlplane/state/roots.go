package state

import "strconv"

// SetBundle replaces the trust roots by those of the next version, if Version
// is that: of two who change them at once one is refused. That the roots are
// roots the proposer has checked.
type SetBundle struct {
	Bundle  []byte // PEM
	Version uint64
}

func (s *State) setBundle(c *SetBundle) Result {
	switch {
	case len(c.Bundle) == 0:
		return refuse(Invalid, "a trust bundle without roots")
	case c.Version != s.BundleVersion+1:
		return refuse(Conflict, "the trust bundle is of version %d now; look at it and try again", s.BundleVersion)
	}
	s.Bundle, s.BundleVersion = c.Bundle, c.Version
	return Result{}
}

func (c *SetBundle) audit(Result) (action, target, detail string) {
	return "ca.bundle", "version " + strconv.FormatUint(c.Version, 10), ""
}
