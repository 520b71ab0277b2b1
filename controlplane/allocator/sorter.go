package allocator

import (
	"cmp"
	"slices"
	"sort"
	"strings"

	"github.com/tenderfleet/tender/transport/fleet"
)

// sorter orders clients by dominant share: roles as the tree that their paths
// make, or the frameworks of one role as a flat list. It is Mesos's DRF
// sorter: the lower share goes first, then the fewer allocations, then the
// lower path; an inner node has the sum of its children.
//
// The order is kept as it changes, so that a change costs a move and not a
// sort.
type sorter struct {
	names   *names
	total   *total
	flat    bool // a path is one name
	weights map[string]fleet.Scalar
	root    *node
	clients map[string]*node
}

// total is what the whole fleet has, whoever may use it. All sorters share it:
// when it changes, every share does.
type total struct {
	vector
	epoch uint64 // grows with each change
}

func (t *total) change(v *vector, sign int64) {
	t.add(v, sign)
	t.epoch++
}

// node is a client (a leaf) or a level above clients.
//
// A role that is both has its client as a leaf below itself, named ".", of
// weight 1; the role's own weight is that of the whole subtree.
type node struct {
	path   string // of a role's own leaf: "role/."
	client string // of a leaf
	parent *node
	leaf   bool
	active bool // of a leaf
	live   int  // active leaves here and below
	alloc  vector
	// count is the number of allocations in the life of the client; it makes
	// clients of equal share take turns.
	count  uint64
	weight fleet.Scalar
	share  share

	children []*node
	epoch    uint64 // of the total that the children's order is for
	stale    bool   // that order is not known
	moves    int    // since it was last needed

	// Of the round that is under way: children before the cursor have had their
	// turn, and a leaf that is done needs none.
	round  uint64
	cursor int
	done   uint64

	owner any // what the client stands for
}

func newSorter(n *names, t *total, flat bool) *sorter {
	return &sorter{
		names: n, total: t, flat: flat, weights: map[string]fleet.Scalar{},
		root: &node{}, clients: map[string]*node{},
	}
}

// own is the name of a role's own leaf below itself.
const own = "/."

func (s *sorter) weightOf(path string) fleet.Scalar {
	if w, ok := s.weights[path]; ok {
		return w
	}
	return fleet.Whole(1)
}

// add makes a client that is active and holds nothing.
func (s *sorter) add(client string) *node {
	at := s.root
	parts := []string{client}
	if !s.flat {
		parts = strings.Split(client, "/")
	}
	for i := range parts {
		path := strings.Join(parts[:i+1], "/")
		next := at.child(path)
		last := i == len(parts)-1
		switch {
		case next == nil && last:
			next = &node{path: path, leaf: true}
			s.attach(at, next)
		case next == nil:
			next = &node{path: path}
			s.attach(at, next)
		case !last && next.leaf:
			next = s.grow(next)
		case last && !next.leaf: // the role has children already
			l := &node{path: path + own, leaf: true}
			s.attach(next, l)
			next = l
		}
		at = next
	}
	at.client = client
	s.clients[client] = at
	s.setActive(at, true)
	return at
}

func (n *node) child(path string) *node {
	for _, c := range n.children {
		if c.path == path {
			return c
		}
	}
	return nil
}

func (s *sorter) attach(parent, n *node) {
	n.parent, n.weight = parent, fleet.Whole(1)
	if !strings.HasSuffix(n.path, own) {
		n.weight = s.weightOf(n.path)
	}
	parent.children = append(parent.children, n)
	parent.stale = true
}

// grow puts a level in a leaf's place and the leaf below it.
func (s *sorter) grow(leaf *node) *node {
	inner := &node{path: leaf.path, live: leaf.live, alloc: leaf.alloc.clone(), count: leaf.count}
	parent := leaf.parent
	parent.children[slices.Index(parent.children, leaf)] = inner
	parent.stale = true
	inner.parent, inner.weight = parent, leaf.weight
	leaf.path += own
	s.attach(inner, leaf)
	return inner
}

func (v *vector) clone() vector {
	return vector{std: v.std, more: slices.Clone(v.more)}
}

// remove forgets a client and what it holds.
func (s *sorter) remove(client string) {
	n := s.clients[client]
	delete(s.clients, client)
	s.setActive(n, false)
	for p := n.parent; p != nil && p != s.root; p = p.parent {
		p.alloc.add(&n.alloc, -1)
		p.parent.stale = true
	}
	n.parent.children = slices.DeleteFunc(n.parent.children, func(c *node) bool { return c == n })
	for p := n.parent; p != s.root; p = p.parent {
		switch {
		case len(p.children) == 0:
			p.parent.children = slices.DeleteFunc(p.parent.children, func(c *node) bool { return c == p })
		case len(p.children) == 1 && p.children[0].leaf && strings.HasSuffix(p.children[0].path, own):
			l := p.children[0] // a client without descendants again
			l.path, l.weight, l.parent = p.path, p.weight, p.parent
			p.parent.children[slices.Index(p.parent.children, p)] = l
			p.parent.stale = true
		}
	}
}

func (s *sorter) setWeight(path string, w fleet.Scalar) {
	s.weights[path] = w
	at := s.root
	for _, part := range s.levels(path) {
		if at = at.child(part); at == nil {
			return
		}
	}
	at.weight = w
	at.parent.stale = true
}

// levels are the paths from the top down to path.
func (s *sorter) levels(path string) []string {
	if s.flat {
		return []string{path}
	}
	var out []string
	for i, c := range path {
		if c == '/' {
			out = append(out, path[:i])
		}
	}
	return append(out, path)
}

// setActive: inactive clients have no turns; what they hold still counts in
// the shares of the levels above.
func (s *sorter) setActive(n *node, on bool) {
	if n.active == on {
		return
	}
	n.active = on
	by := 1
	if !on {
		by = -1
	}
	for ; n != s.root; n = n.parent {
		i, known := s.place(n)
		n.live += by
		s.moved(n, i, known)
	}
	s.root.live += by
}

func (s *sorter) allocated(n *node, v *vector) {
	for ; n != s.root; n = n.parent {
		i, known := s.place(n)
		n.alloc.add(v, 1)
		n.count++
		s.moved(n, i, known)
	}
}

func (s *sorter) unallocated(n *node, v *vector) {
	for ; n != s.root; n = n.parent {
		p := n.parent
		if p.moves++; p.moves > 8+len(p.children)/8 {
			p.stale = true // by now a sort is cheaper
		}
		i, known := s.place(n)
		n.alloc.add(v, -1)
		s.moved(n, i, known)
	}
}

// place finds where a child stands, if the order is known.
func (s *sorter) place(n *node) (int, bool) {
	p := n.parent
	if p.stale || p.epoch != s.total.epoch {
		p.stale = true
		return 0, false
	}
	return p.search(p.children, n), true
}

func (*node) search(in []*node, n *node) int {
	return sort.Search(len(in), func(i int) bool { return order(in[i], n) >= 0 })
}

// moved puts a child whose share has changed where it belongs.
func (s *sorter) moved(n *node, from int, known bool) {
	if !known {
		return
	}
	n.share = s.names.dominant(&n.alloc, &s.total.vector, n.weight)
	list := n.parent.children
	if right := list[from+1:]; len(right) > 0 && order(right[0], n) < 0 {
		to := from + n.search(right, n)
		copy(list[from:to], list[from+1:to+1])
		list[to] = n
		return
	}
	if from > 0 && order(list[from-1], n) > 0 {
		to := n.search(list[:from], n)
		copy(list[to+1:from+1], list[to:from])
		list[to] = n
	}
}

// order compares siblings; those without an active client come last.
func order(x, y *node) int {
	if (x.live == 0) != (y.live == 0) {
		if x.live == 0 {
			return 1
		}
		return -1
	}
	if c := x.share.compare(y.share); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(x.count, y.count), cmp.Compare(x.path, y.path))
}

// ordered returns the children in order.
func (s *sorter) ordered(n *node) []*node {
	if n.stale || n.epoch != s.total.epoch {
		for _, c := range n.children {
			c.share = s.names.dominant(&c.alloc, &s.total.vector, c.weight)
		}
		slices.SortFunc(n.children, order)
		n.stale, n.epoch = false, s.total.epoch
	}
	n.moves = 0
	return n.children
}

// first returns the first active client that is not done in this round, nil
// when there is none. Within a round shares only grow, so the cursors never
// go back.
func (s *sorter) first(round uint64) *node { return s.firstOf(s.root, round) }

func (s *sorter) firstOf(n *node, round uint64) *node {
	list := s.ordered(n)
	n.begin(round)
	for ; n.cursor < len(list) && list[n.cursor].live > 0; n.cursor++ {
		c := list[n.cursor]
		if !c.leaf {
			c = s.firstOf(c, round)
		} else if c.done == round {
			c = nil
		}
		if c != nil {
			return c
		}
	}
	return nil
}

func (n *node) begin(round uint64) {
	if n.round != round {
		n.round, n.cursor = round, 0
	}
}

// walk visits the active clients that are not done in this round, in order,
// until visit says stop. visit must not change the sorter.
func (s *sorter) walk(round uint64, visit func(*node) bool) { s.walkOf(s.root, round, visit) }

func (s *sorter) walkOf(n *node, round uint64, visit func(*node) bool) bool {
	list := s.ordered(n)
	n.begin(round)
	for _, c := range list[n.cursor:] {
		if c.live == 0 {
			break
		}
		if c.leaf {
			if c.done != round && !visit(c) {
				return false
			}
		} else if !s.walkOf(c, round, visit) {
			return false
		}
	}
	return true
}
