package state

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/tenderfleet/tender/transport/fleet"
)

// setQuota sets the quota of several roles, all or none. The whole tree must
// be sound afterwards; Force leaves out only the look at the fleet's capacity.
func (s *State) setQuota(c *SetQuota) Result {
	next := map[fleet.Role]fleet.Quota{}
	for r, rec := range s.Roles {
		next[r] = rec.Quota
	}
	for _, q := range c.Quotas {
		if err := fleet.CheckRole(q.Role); err != nil {
			return refuse(Invalid, "%v", err)
		}
		if q.Role == fleet.DefaultRole {
			return refuse(Invalid, `the role "*" has no quota; give the work a role of its own`)
		}
		if err := fleet.CheckQuota(q.Quota); err != nil {
			return refuse(Invalid, "quota of role %s: %v", q.Role, err)
		}
		next[q.Role] = q.Quota
	}
	if r := soundQuota(next); r.Kind != OK {
		return r
	}
	if !c.Force {
		if r := s.affordable(next); r.Kind != OK {
			return r
		}
	}
	for _, q := range c.Quotas {
		s.putRole(q.Role, Role{Weight: s.Weight(q.Role), Quota: q.Quota})
	}
	return Result{}
}

// soundQuota holds each role against those above it.
func soundQuota(quotas map[fleet.Role]fleet.Quota) Result {
	for _, r := range SortedKeys(quotas) {
		for _, l := range quotas[r].Limit {
			for p := r.Parent(); p != ""; p = p.Parent() {
				if above, ok := quotas[p].Limit.Get(l.Name); ok && l.Amount > above {
					return refuse(Invalid, "the limit of role %s, %v %s, is above that of its parent %s, %v; raise the parent's first",
						r, l.Amount, l.Name, p, above)
				}
			}
		}
	}
	need := needed(quotas)
	for _, r := range SortedKeys(quotas) {
		for _, l := range quotas[r].Limit {
			if n := need[r][l.Name]; n > l.Amount {
				return refuse(Invalid, "role %s and those below it are guaranteed %v %s, and it is limited to %v", r, n, l.Name, l.Amount)
			}
		}
	}
	return Result{}
}

// needed is what each role and its descendants are guaranteed, by name: the
// larger of its own guarantee and its children's sum. The entry of "" is the
// whole fleet's.
func needed(quotas map[fleet.Role]fleet.Quota) map[fleet.Role]map[string]fleet.Scalar {
	need := map[fleet.Role]map[string]fleet.Scalar{"": {}}
	for r, q := range quotas {
		for p := r; p != ""; p = p.Parent() {
			if need[p] == nil {
				need[p] = map[string]fleet.Scalar{}
			}
		}
		for _, g := range q.Guarantee {
			need[r][g.Name] = g.Amount
		}
	}
	// The deepest first, each level into a sum of its own: what a role needs
	// must not be compared before all its children are counted.
	roles := slices.SortedFunc(maps.Keys(need), func(x, y fleet.Role) int {
		return cmp.Or(cmp.Compare(strings.Count(string(y), "/"), strings.Count(string(x), "/")), cmp.Compare(y, x))
	})
	below := map[fleet.Role]map[string]fleet.Scalar{}
	for _, r := range roles {
		for name, n := range below[r] {
			need[r][name] = max(need[r][name], n)
		}
		if r == "" {
			continue
		}
		p := r.Parent()
		if below[p] == nil {
			below[p] = map[string]fleet.Scalar{}
		}
		for name, n := range need[r] {
			below[p][name] += n
		}
	}
	return need
}

// affordable refuses guarantees beyond what the fleet has.
func (s *State) affordable(quotas map[fleet.Role]fleet.Quota) Result {
	need := needed(quotas)[""]
	for _, name := range SortedKeys(need) {
		var has fleet.Scalar
		for _, a := range s.Agents {
			if !a.Revoked {
				total := a.Capacity.Total.Total()
				has += total.Quantity(name)
			}
		}
		if need[name] > has {
			return refuse(Conflict, "the roles are guaranteed %v %s together, and the fleet has %v; add agents, or force it", need[name], name, has)
		}
	}
	return Result{}
}
