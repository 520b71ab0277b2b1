package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// ErrRing marks a ring that cannot be read.
var ErrRing = errors.New("invalid ring")

// ParseRings reads rings as operators write them: [NAME=]SELECTOR, where the
// selector is site:NAME, label:KEY=VALUE, agent:ID,ID, N% or rest. Without a
// name a ring is called by its selector.
func ParseRings(texts []string) ([]state.Ring, error) {
	if len(texts) == 0 || len(texts) > state.MaxRings {
		return nil, fmt.Errorf("%w: give 1 to %d rings, such as canary=site:lab, 10%% and rest", ErrRing, state.MaxRings)
	}
	var rings []state.Ring
	percent := 0
	for i, text := range texts {
		r, err := parseRing(text)
		if err != nil {
			return nil, err
		}
		if r.Percent > 0 && r.Percent <= percent {
			return nil, fmt.Errorf("%w: %.40q comes after %d%%: a percentage counts all agents up to there, so write a greater one", ErrRing, text, percent)
		}
		percent = max(percent, r.Percent)
		if r.Rest && i != len(texts)-1 {
			return nil, fmt.Errorf("%w: %.40q leaves nothing for the rings after it; put it last", ErrRing, text)
		}
		if slices.ContainsFunc(rings, func(o state.Ring) bool { return o.Name == r.Name }) {
			return nil, fmt.Errorf("%w: two rings are called %.40q; name one: NAME=SELECTOR", ErrRing, r.Name)
		}
		rings = append(rings, r)
	}
	return rings, nil
}

func parseRing(text string) (state.Ring, error) {
	r := state.Ring{Name: text}
	selector := text
	// A label has an equals sign of its own.
	if name, rest, ok := strings.Cut(text, "="); ok && !strings.Contains(name, ":") {
		r.Name, selector = name, rest
	}
	kind, value, _ := strings.Cut(selector, ":")
	number, isPercent := strings.CutSuffix(selector, "%")
	bad := fmt.Errorf("%w: %.60q: write [NAME=]SELECTOR, where SELECTOR is site:NAME, label:KEY=VALUE, agent:ID,ID, a percentage such as 10%%, or rest", ErrRing, text)
	switch {
	case r.Name == "":
		return r, bad
	case selector == "rest":
		r.Rest = true
	case isPercent:
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > 100 {
			return r, bad
		}
		r.Percent = n
	case value == "":
		return r, bad
	case kind == "site":
		r.Site = fleet.Site(value)
	case kind == "label" && strings.Contains(value, "="):
		r.Label = value
	case kind == "agent":
		for id := range strings.SplitSeq(value, ",") {
			if err := fleet.CheckID("agent", id); err != nil {
				return r, fmt.Errorf("%w: %.60q: %w", ErrRing, text, err)
			}
			r.Agents = append(r.Agents, fleet.AgentID(id))
		}
	default:
		return r, bad
	}
	return r, nil
}

// Selector is a ring's choice as ParseRings reads it.
func Selector(r state.Ring) string {
	switch {
	case r.Site != "":
		return "site:" + string(r.Site)
	case r.Label != "":
		return "label:" + r.Label
	case len(r.Agents) > 0:
		ids := make([]string, len(r.Agents))
		for i, id := range r.Agents {
			ids[i] = string(id)
		}
		return "agent:" + strings.Join(ids, ",")
	case r.Percent > 0:
		return strconv.Itoa(r.Percent) + "%"
	default:
		return "rest"
	}
}

// digest puts agents into an order that is another one for each rollout, so
// that not always the same agents are the first.
func digest(id fleet.RolloutID, agent fleet.AgentID) uint64 {
	sum := sha256.Sum256([]byte(string(id) + "/" + string(agent)))
	return binary.BigEndian.Uint64(sum[:8])
}

// Fix finds up to which digest the percentages reach: N percent are at least
// one agent. Agents that join later are of the ring that their digest gives.
func Fix(id fleet.RolloutID, rings []state.Ring, agents map[fleet.AgentID]*fleet.Agent) []state.Ring {
	var digests []uint64
	for _, a := range agents {
		if counts(a) {
			digests = append(digests, digest(id, a.ID))
		}
	}
	slices.Sort(digests)
	rings = slices.Clone(rings)
	for i := range rings {
		p := rings[i].Percent
		if p == 0 {
			continue
		}
		rings[i].Upto = ^uint64(0) / 100 * uint64(p) //nolint:gosec // 1 to 100
		if p == 100 {
			rings[i].Upto = ^uint64(0)
		} else if n := (len(digests)*p + 99) / 100; n > 0 {
			rings[i].Upto = digests[n-1]
		}
	}
	return rings
}

// counts reports whether an agent is one of the fleet still.
func counts(a *fleet.Agent) bool { return !a.Revoked && a.Gone.IsZero() }

// RingOf is the number of the ring that an agent is in, -1 for none.
func RingOf(r *state.Rollout, a *fleet.Agent) int {
	return slices.IndexFunc(r.Rings, func(ring state.Ring) bool {
		key, value, _ := strings.Cut(ring.Label, "=")
		switch {
		case ring.Site != "":
			return a.Site == ring.Site
		case ring.Label != "":
			got, ok := a.Labels[key]
			return ok && got == value
		case len(ring.Agents) > 0:
			return slices.Contains(ring.Agents, a.ID)
		case ring.Percent > 0:
			return digest(r.ID, a.ID) <= ring.Upto
		default:
			return ring.Rest
		}
	})
}

// Compare orders versions as Debian does (deb-version(7)), after the "v" that
// agents put before theirs: letters sort before other characters, '~' before
// the end, and digits by their number.
func Compare(a, b string) int {
	a, b = strings.TrimPrefix(a, "v"), strings.TrimPrefix(b, "v")
	for a != "" || b != "" {
		var x, y string
		x, a = span(a, false)
		y, b = span(b, false)
		if c := compareWords(x, y); c != 0 {
			return c
		}
		x, a = span(a, true)
		y, b = span(b, true)
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
			return c
		}
	}
	return 0
}

// span cuts off what a begins with: digits, or what are none.
func span(a string, digits bool) (first, rest string) {
	n := 0
	for n < len(a) && (a[n] >= '0' && a[n] <= '9') == digits {
		n++
	}
	return a[:n], a[n:]
}

func compareWords(x, y string) int {
	for i := range max(len(x), len(y)) {
		if c := cmp.Compare(weight(x, i), weight(y, i)); c != 0 {
			return c
		}
	}
	return 0
}

func weight(s string, i int) int {
	switch {
	case i >= len(s):
		return 0
	case s[i] == '~':
		return -1
	case s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z':
		return int(s[i])
	default:
		return int(s[i]) + 256
	}
}
