package allocator

import (
	"fmt"
	"regexp"

	"github.com/tenderfleet/tender/transport/fleet"
)

// matcher reports whether offers of an agent are of use.
type matcher func(*Agent) bool

// maxPattern bounds an expression: it is matched against every agent.
const maxPattern = 1024

// compile makes a matcher of constraints, nil where there are none.
func compile(groups fleet.OfferConstraints) (matcher, error) {
	if len(groups) == 0 {
		return nil, nil
	}
	alternatives := make([][]matcher, len(groups))
	for i, g := range groups {
		for _, c := range g {
			m, err := compileOne(c)
			if err != nil {
				return nil, err
			}
			alternatives[i] = append(alternatives[i], m)
		}
	}
	return func(ag *Agent) bool {
		for _, all := range alternatives {
			ok := true
			for _, m := range all {
				ok = ok && m(ag)
			}
			if ok {
				return true
			}
		}
		return false
	}, nil
}

// compileOne: an attribute that an agent does not have is not equal to
// anything, and matches nothing.
func compileOne(c fleet.Constraint) (matcher, error) {
	value := func(ag *Agent) (string, bool) {
		if c.Attribute == "" {
			return ag.Hostname, ag.Hostname != ""
		}
		v, ok := ag.Labels[c.Attribute]
		if !ok && c.Attribute == "site" && ag.Site != "" {
			return string(ag.Site), true
		}
		return v, ok
	}
	test := func(is bool, of func(string) bool) matcher {
		return func(ag *Agent) bool {
			v, ok := value(ag)
			return (ok && of(v)) == is
		}
	}
	switch c.Predicate {
	case fleet.Exists, fleet.NotExists:
		return test(c.Predicate == fleet.Exists, func(string) bool { return true }), nil
	case fleet.TextEquals, fleet.TextNotEquals:
		return test(c.Predicate == fleet.TextEquals, func(v string) bool { return v == c.Value }), nil
	case fleet.TextMatches, fleet.TextNotMatches:
		if len(c.Value) > maxPattern {
			return nil, fmt.Errorf("an offer constraint's expression is longer than %d bytes", maxPattern)
		}
		re, err := regexp.Compile(`^(?:` + c.Value + `)$`)
		if err != nil {
			return nil, fmt.Errorf("an offer constraint on %q: %w", c.Attribute, err)
		}
		return test(c.Predicate == fleet.TextMatches, re.MatchString), nil
	default:
		return nil, fmt.Errorf("an offer constraint on %q has the unknown predicate %q", c.Attribute, c.Predicate)
	}
}
