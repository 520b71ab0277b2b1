package allocator

import "github.com/tenderfleet/tender/transport/fleet"

// Request is an inverse offer: a framework is asked to give back what it holds
// on an agent that will be down.
type Request struct {
	Framework fleet.FrameworkID
	Agent     fleet.AgentID
	// Held is what the framework has there: offered or in use.
	Held   fleet.Resources
	Window fleet.Unavailability
}

func sameWindow(x, y *fleet.Unavailability) bool {
	if x == nil || y == nil {
		return x == y
	}
	return x.Start.Equal(y.Start) && x.Duration == y.Duration
}

// announce begins a maintenance window, or ends it.
func (a *Allocator) announce(ag *agent, w *fleet.Unavailability) {
	ag.asked = map[fleet.FrameworkID]bool{}
	a.touch(ag)
	if w == nil {
		delete(a.windows, ag.ID)
	}
}

// AskAgain has a framework asked once more: it was not there, or it forgot.
func (a *Allocator) AskAgain(f fleet.FrameworkID) {
	for _, ag := range a.windows {
		delete(ag.asked, f)
	}
}

// Requests returns the inverse offers to make now. Each framework that holds
// something on an agent is asked once per announcement.
func (a *Allocator) Requests() []Request {
	var out []Request
	for _, id := range sorted(a.windows) {
		ag := a.windows[id]
		for _, f := range sorted(ag.holders) {
			if !ag.asked[f] {
				ag.asked[f] = true
				out = append(out, Request{f, id, ag.holders[f], *ag.Unavailable})
			}
		}
	}
	return out
}
