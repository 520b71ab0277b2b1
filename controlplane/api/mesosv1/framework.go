package mesosv1

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Limits on what a framework says of itself, which every replica keeps.
const (
	maxText         = 255
	maxURL          = 2048
	maxRoles        = 256
	maxAlternatives = 64
	maxConstraints  = 256
	maxFailover     = 100 * 365 * 24 * time.Hour
	// minGivenID is the least length of an id that is not known here: Mesos's
	// have more, and those of what is built in have less.
	minGivenID = 16
)

// capMultiRole is Mesos's: the framework names its roles in the field roles.
const capMultiRole fleet.Capability = "MULTI_ROLE"

// describe makes a description of what a framework says of itself, all but its
// id. The rules are Mesos's; the error is text for the event ERROR.
//
// A failover time-out of 0 is as good as none, and the default of a week holds:
// many clients write the field out without anybody having chosen its value, and
// in Mesos that ends every task whenever the connection breaks (MESOS-4659). A
// positive one holds, however short.
func describe(in *pb.FrameworkInfo, c *pb.OfferConstraints, who access.Principal) (fleet.FrameworkInfo, error) {
	f := fleet.FrameworkInfo{
		Name: in.GetName(), User: in.GetUser(), Principal: who.String(), Hostname: in.GetHostname(),
		WebUI: in.GetWebuiUrl(), Labels: readLabels(in.GetLabels()),
	}
	for _, c := range in.GetCapabilities() {
		if name := fleet.Capability(c.GetType().String()); c.GetType() != pb.FrameworkInfo_Capability_UNKNOWN && !f.Can(name) {
			f.Capabilities = append(f.Capabilities, name)
		}
	}
	if err := checkTexts(f); err != nil {
		return f, err
	}
	var err error
	if f.Roles, err = rolesOf(in, f.Can(capMultiRole)); err != nil {
		return f, err
	}
	for _, r := range f.Roles {
		if err := who.CheckRole(r); err != nil {
			return f, err
		}
	}
	if f.FailoverTimeout, err = failover(in.GetFailoverTimeout()); err != nil {
		return f, err
	}
	if f.Min, err = minimums(in.GetOfferFilters(), f.Roles); err != nil {
		return f, err
	}
	f.Constraints, err = constraints(c, f.Roles)
	return f, err
}

func checkTexts(f fleet.FrameworkInfo) error {
	for _, t := range []struct {
		what, text string
		limit      int
	}{{"name", f.Name, maxText}, {"user", f.User, maxText}, {"hostname", f.Hostname, maxText}, {"webui_url", f.WebUI, maxURL}} {
		if len(t.text) > t.limit {
			return fmt.Errorf("FrameworkInfo.%s is longer than %d bytes", t.what, t.limit)
		}
	}
	if len(f.Labels) > fleet.MaxLabels {
		return fmt.Errorf("FrameworkInfo.labels: %d labels, the limit is %d", len(f.Labels), fleet.MaxLabels)
	}
	for _, l := range f.Labels {
		if len(l.Key) > maxText || len(l.Value) > maxText {
			return fmt.Errorf("FrameworkInfo.labels: a key or value is longer than %d bytes", maxText)
		}
	}
	return nil
}

func rolesOf(in *pb.FrameworkInfo, multi bool) ([]fleet.Role, error) {
	switch {
	case multi && in.Role != nil:
		return nil, errors.New("FrameworkInfo.role must not be set by a framework with the capability MULTI_ROLE: name its roles in FrameworkInfo.roles")
	case !multi && len(in.GetRoles()) > 0:
		return nil, errors.New("FrameworkInfo.roles is only for frameworks with the capability MULTI_ROLE: set FrameworkInfo.role, or add the capability")
	case !multi:
		role := fleet.Role(in.GetRole())
		return []fleet.Role{role}, fleet.CheckRole(role)
	}
	roles, err := readRoles(in.GetRoles())
	if err == nil && len(roles) > maxRoles {
		err = fmt.Errorf("%d roles, the limit is %d", len(roles), maxRoles)
	}
	return roles, err
}

// readRoles sorts roles, which must be valid and named once.
func readRoles(names []string) ([]fleet.Role, error) {
	var roles []fleet.Role
	for _, n := range names {
		if err := fleet.CheckRole(fleet.Role(n)); err != nil {
			return nil, err
		}
		roles = append(roles, fleet.Role(n))
	}
	slices.Sort(roles)
	if n := len(roles); len(slices.Compact(slices.Clone(roles))) != n {
		return nil, errors.New("a role is named twice")
	}
	return roles, nil
}

// rolesAmong reads roles that must be a framework's.
func rolesAmong(names []string, of []fleet.Role) ([]fleet.Role, error) {
	roles, err := readRoles(names)
	if err != nil {
		return nil, err
	}
	for _, r := range roles {
		if !slices.Contains(of, r) {
			return nil, fmt.Errorf("%s is none of the framework's roles", r)
		}
	}
	return roles, nil
}

func failover(seconds float64) (time.Duration, error) {
	switch {
	case math.IsNaN(seconds) || seconds < 0:
		return 0, fmt.Errorf("FrameworkInfo.failover_timeout: %v is not a number of seconds", seconds)
	case seconds == 0:
		return fleet.DefaultFailoverTimeout, nil
	case seconds >= maxFailover.Seconds():
		return maxFailover, nil
	}
	return max(1, time.Duration(seconds*float64(time.Second))), nil
}

// minimums reads offer_filters. What has no min_allocatable_resources leaves
// the fleet's rule in force; one without alternatives takes anything.
func minimums(in map[string]*pb.OfferFilters, roles []fleet.Role) (map[fleet.Role][]fleet.Quantities, error) {
	var out map[fleet.Role][]fleet.Quantities
	for name, f := range in {
		role := fleet.Role(name)
		if !slices.Contains(roles, role) {
			return nil, fmt.Errorf("FrameworkInfo.offer_filters: %.64s is none of the framework's roles", name)
		}
		if f.GetMinAllocatableResources() == nil {
			continue
		}
		if out == nil {
			out = map[fleet.Role][]fleet.Quantities{}
		}
		out[role] = []fleet.Quantities{}
		for _, q := range f.GetMinAllocatableResources().GetQuantities() {
			list, err := quantities(q.GetQuantities())
			if err != nil {
				return nil, fmt.Errorf("FrameworkInfo.offer_filters of %s: %w", role, err)
			}
			out[role] = append(out[role], list)
		}
		if len(out[role]) > maxAlternatives {
			return nil, fmt.Errorf("FrameworkInfo.offer_filters of %s: %d alternatives, the limit is %d", role, len(out[role]), maxAlternatives)
		}
	}
	return out, nil
}

func quantities(in map[string]*pb.Value_Scalar) (fleet.Quantities, error) {
	if len(in) > maxAlternatives {
		return nil, fmt.Errorf("%d names, the limit is %d", len(in), maxAlternatives)
	}
	var out fleet.Quantities
	for name, v := range in {
		amount, err := thousandths(v.GetValue())
		if err != nil {
			return nil, fmt.Errorf("%.64s: %w", name, err)
		}
		if len(name) > fleet.MaxIDLen {
			return nil, fmt.Errorf("%.64q is no name of a resource", name)
		}
		out = append(out, fleet.Amount{Name: name, Amount: amount})
	}
	slices.SortFunc(out, func(a, b fleet.Amount) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// constraints reads offer constraints. Agents have no fault domains: REGION and
// ZONE are the labels region and zone.
func constraints(in *pb.OfferConstraints, roles []fleet.Role) (map[fleet.Role]fleet.OfferConstraints, error) {
	var out map[fleet.Role]fleet.OfferConstraints
	n := 0
	for name, rc := range in.GetRoleConstraints() {
		role := fleet.Role(name)
		if !slices.Contains(roles, role) {
			return nil, fmt.Errorf("offer_constraints: %.64s is none of the framework's roles", name)
		}
		var groups fleet.OfferConstraints
		for _, g := range rc.GetGroups() {
			var all []fleet.Constraint
			for _, ac := range g.GetAttributeConstraints() {
				c, err := constraint(ac)
				if err != nil {
					return nil, fmt.Errorf("offer_constraints of %s: %w", role, err)
				}
				all = append(all, c)
			}
			if n += len(all); n > maxConstraints {
				return nil, fmt.Errorf("offer_constraints: more than %d constraints", maxConstraints)
			}
			if len(all) == 0 {
				return nil, fmt.Errorf("offer_constraints of %s: a group is empty", role)
			}
			groups = append(groups, all)
		}
		if len(groups) == 0 {
			return nil, fmt.Errorf("offer_constraints of %s: there are no groups", role)
		}
		if out == nil {
			out = map[fleet.Role]fleet.OfferConstraints{}
		}
		out[role] = groups
	}
	return out, nil
}

func constraint(in *pb.AttributeConstraint) (fleet.Constraint, error) {
	var c fleet.Constraint
	switch s := in.GetSelector().GetSelector().(type) {
	case *pb.AttributeConstraint_Selector_AttributeName:
		if c.Attribute = s.AttributeName; c.Attribute == "" || len(c.Attribute) > maxText {
			return c, errors.New("the name of an attribute is empty or too long")
		}
	case *pb.AttributeConstraint_Selector_PseudoattributeType_:
		names := map[pb.AttributeConstraint_Selector_PseudoattributeType]string{
			pb.AttributeConstraint_Selector_HOSTNAME: "", pb.AttributeConstraint_Selector_REGION: "region", pb.AttributeConstraint_Selector_ZONE: "zone",
		}
		name, ok := names[s.PseudoattributeType]
		if !ok {
			return c, errors.New("a selector is of an unknown kind")
		}
		c.Attribute = name
	default:
		return c, errors.New("a selector is of an unknown kind")
	}
	switch p := in.GetPredicate().GetPredicate().(type) {
	case *pb.AttributeConstraint_Predicate_Exists_:
		c.Predicate = fleet.Exists
	case *pb.AttributeConstraint_Predicate_NotExists_:
		c.Predicate = fleet.NotExists
	case *pb.AttributeConstraint_Predicate_TextEquals_:
		c.Predicate, c.Value = fleet.TextEquals, p.TextEquals.GetValue()
	case *pb.AttributeConstraint_Predicate_TextNotEquals_:
		c.Predicate, c.Value = fleet.TextNotEquals, p.TextNotEquals.GetValue()
	case *pb.AttributeConstraint_Predicate_TextMatches_:
		c.Predicate, c.Value = fleet.TextMatches, p.TextMatches.GetRegex()
	case *pb.AttributeConstraint_Predicate_TextNotMatches_:
		c.Predicate, c.Value = fleet.TextNotMatches, p.TextNotMatches.GetRegex()
	default:
		return c, errors.New("a predicate is of an unknown kind")
	}
	if len(c.Value) > 4<<10 {
		return c, errors.New("a predicate's text is longer than 4 KiB")
	}
	return c, nil
}
