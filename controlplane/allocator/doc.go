// Package allocator divides the fleet's resources among roles and, inside a
// role, among frameworks: Mesos's hierarchical dominant-share fairness with
// quota, reservations, filters and inverse offers, pulled by demand. It is a
// value: no clock, no I/O, no chance.
//
// The leader's loop:
//
//	a.SetAgent(...); a.SetFramework(...); a.SetDemands(framework, role, demands)
//	for _, g := range a.Allocate(now) {      // g counts as allocated at once
//	    send an offer for g
//	}
//	a.Settle(g.Demand, ...)                   // the offer is over, however
//	a.Recover(g.Framework, g.Role, g.Agent, unused)
//	a.Refuse(now, ..., refuse)                // a decline's filter
//	for _, r := range a.Requests() { send an inverse offer for r }
//	for _, p := range a.Preempt(now, ...) { end p.Victims }   // once a second
//
// A framework that states no demand gets no offer, so nobody hoards. One that
// only subscribes, as a Mesos framework does, has a standing demand: it is
// offered everything left on an agent.
//
// A round has two stages. First the roles whose guarantee is open get what it
// covers, and what else can be spared of the same agent; then all roles share
// the rest. In each the role with the lowest dominant share goes first, in it
// the framework with the lowest. What is held back for guarantees nobody gets
// beyond his own, and no role grows beyond a limit: its own or one above it.
//
// Where this differs from Mesos: quota may stand on any level of the tree, a
// parent's limit binds its descendants, and a parent's guarantee is there for
// them, too. Agents are tried in an order of their own (those without GPUs
// first, of those the emptiest) and not at random.
//
// Work per round follows what changed: agents that may have more to give are
// tried against all clients, clients that want more, or that quota has let go
// of, against all agents. A round over everything after it would find nothing.
//
// Amounts are fixed-point integers and shares are compared by
// cross-multiplication, so that every replica, on any processor, agrees.
//
// testdata/scenarios holds scenarios that any such allocator must pass.
package allocator
