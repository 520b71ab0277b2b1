// Package fleet holds the nouns of Tender: typed ids, resources and their
// arithmetic, tasks and their states, offers, agents. Everything else speaks
// of the fleet in these types; there is no second copy of them but the wire
// form (package transport/wire).
//
// It is a leaf: the standard library and package gpu only, no I/O, no clock,
// no struct tags. Values are treated as immutable once shared: who changes a
// Task copies it first.
package fleet
