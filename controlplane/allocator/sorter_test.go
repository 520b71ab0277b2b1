package allocator

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/transport/fleet"
)

// The order that is kept as things change is the one that sorting anew gives.
func TestSorterKeepsItsOrder(t *testing.T) {
	clients := []string{"a", "a/b", "a/b/c", "a/d", "e", "f/g", "f/h"}
	rapid.Check(t, func(t *rapid.T) {
		var tot total
		rng := rand.New(rand.NewPCG(1, 2))
		s := newSorter(newNames(nil), &tot, false)
		amount := func() vector {
			return vector{std: [standard]int64{rapid.Int64Range(0, 5).Draw(t, "cpus"), rapid.Int64Range(0, 5).Draw(t, "mem")}}
		}
		held := map[string][]vector{}
		t.Repeat(map[string]func(*rapid.T){
			"total": func(*rapid.T) { v := amount(); tot.change(&v, 1) },
			"weight": func(t *rapid.T) {
				s.setWeight(rapid.SampledFrom(clients).Draw(t, "path"), fleet.Scalar(rapid.Int64Range(1, 3000).Draw(t, "weight")))
			},
			"add or remove": func(t *rapid.T) {
				c := rapid.SampledFrom(clients).Draw(t, "client")
				if s.clients[c] == nil {
					s.add(c)
				} else {
					s.remove(c)
					delete(held, c)
				}
			},
			"allocate": func(t *rapid.T) {
				if c := rapid.SampledFrom(clients).Draw(t, "client"); s.clients[c] != nil {
					v := amount()
					s.allocated(s.clients[c], &v)
					held[c] = append(held[c], v)
				}
			},
			"recover": func(t *rapid.T) {
				if c := rapid.SampledFrom(clients).Draw(t, "client"); len(held[c]) > 0 {
					v := held[c][0]
					held[c] = held[c][1:]
					s.unallocated(s.clients[c], &v)
				}
			},
			"activate": func(t *rapid.T) {
				if c := rapid.SampledFrom(clients).Draw(t, "client"); s.clients[c] != nil {
					s.setActive(s.clients[c], rapid.Bool().Draw(t, "on"))
				}
			},
			"": func(t *rapid.T) {
				order := func() (out []string) {
					s.walk(1, func(n *node) bool { out = append(out, n.client); return true })
					return out
				}
				kept := order()
				var forget func(*node)
				forget = func(n *node) {
					n.stale = true
					rng.Shuffle(len(n.children), func(i, j int) { n.children[i], n.children[j] = n.children[j], n.children[i] })
					for _, c := range n.children {
						forget(c)
					}
				}
				forget(s.root)
				if anew := order(); !slices.Equal(kept, anew) {
					t.Fatalf("kept %v, anew %v", kept, anew)
				}
			},
		})
	})
}
