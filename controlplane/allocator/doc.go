// Package allocator divides the fleet's free resources among roles and, inside
// a role, among frameworks: dominant-share fairness (Ghodsi et al., NSDI 2011;
// Mesos's DRF sorter), pulled by demand.
//
// The leader's loop:
//
//	a.SetAgent(...); a.SetDemands(framework, role, demands)
//	for _, g := range a.Allocate(now) {      // g counts as allocated at once
//	    send an offer for g
//	}
//	a.Settle(g.Demand, ...)                   // the offer is over, however
//	a.Recover(g.Framework, g.Role, g.Agent, unused)
//
// A framework that states no demand gets no offer, so nobody hoards. One that
// only subscribes, as a Mesos framework does, has a standing demand: it is
// offered everything left on an agent.
//
// Work per round follows what changed: agents whose free resources changed are
// tried against all open demands, demands that changed against all agents.
//
// Amounts are fixed-point integers and shares are compared by
// cross-multiplication, so that every replica, on any processor, agrees.
package allocator
