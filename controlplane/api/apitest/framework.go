package apitest

import (
	"fmt"
	"time"

	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Register connects an outside framework. It answers no offer and acknowledges
// no update by itself: Decline, Launch and Acknowledge do that.
func (f *Fleet) Register(info fleet.FrameworkInfo, suppressed ...fleet.Role) {
	f.do(func() {
		f.conns++
		f.step(leader.Register{Info: info, Suppressed: suppressed, Conn: f.conns, By: "framework/" + info.Principal})
	})
}

// Leave ends the connections of an outside framework.
func (f *Fleet) Leave(id fleet.FrameworkID) {
	f.do(func() {
		for conn := range f.conns {
			f.step(leader.Unsubscribe{Framework: id, Conn: conn + 1})
		}
	})
}

// Decline gives back all that is on offer to a framework, not to be offered
// again for a while.
func (f *Fleet) Decline(id fleet.FrameworkID, refuse time.Duration) {
	f.do(func() {
		var ids []fleet.OfferID
		for _, o := range f.leader.Offers() {
			if o.Framework == id {
				ids = append(ids, o.ID)
			}
		}
		f.step(leader.Decline{Framework: id, Offers: ids, Filters: &fleet.Filters{Refuse: refuse}})
	})
}

// Launch puts a new task of one processor on the first offer of a framework,
// reserved resources first. What else was on offer is offered again.
func (f *Fleet) Launch(id fleet.FrameworkID, task fleet.TaskID, command ...string) error {
	err := fmt.Errorf("there is no offer to %s", id)
	f.do(func() {
		for _, o := range f.leader.Offers() {
			if o.Framework != id {
				continue
			}
			res, ok := o.Resources.Pick(fleet.Resources{CPUs: fleet.Whole(1)})
			if !ok {
				continue
			}
			spec := fleet.TaskSpec{Name: string(task), Image: "docker.io/library/busybox:1.36", Command: command}
			f.step(leader.Accept{Framework: id, Offers: []fleet.OfferID{o.ID}, Create: true, Operations: []leader.Operation{
				{Launch: []fleet.Launch{{Task: task, Foreign: string(task), Spec: spec, Resources: res}}},
			}})
			err = nil
			return
		}
	})
	return err
}

// Acknowledge has a framework acknowledge the updates that it was sent, and
// those that come then.
func (f *Fleet) Acknowledge(id fleet.FrameworkID) {
	for f.acknowledgeOne(id) {
	}
}

func (f *Fleet) acknowledgeOne(id fleet.FrameworkID) (did bool) {
	f.do(func() {
		for _, t := range state.SortedKeys(f.st.Tasks) {
			if task := f.st.Tasks[t]; task.Framework == id && len(task.Pending) > 0 {
				f.step(leader.Acknowledge{Framework: id, Task: t, Update: task.Pending[0].Update})
				did = true
				return
			}
		}
	})
	return did
}

// Info is a framework that handles everything in some roles, with the default
// failover time-out; of no roles, in "*".
func Info(id fleet.FrameworkID, roles ...fleet.Role) fleet.FrameworkInfo {
	if len(roles) == 0 {
		roles = []fleet.Role{fleet.DefaultRole}
	}
	return fleet.FrameworkInfo{
		ID: id, Name: "scheduler of " + string(id), Principal: string(id), Roles: roles,
		Capabilities:    []fleet.Capability{fleet.CapGPU, fleet.CapRefinement, fleet.CapPartitionAware},
		FailoverTimeout: fleet.DefaultFailoverTimeout,
	}
}
