package api

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// taskDoc is a task for people; whole adds its history.
func taskDoc(t *state.Task, w *client.Waiting, whole bool) client.Task {
	d := client.Task{
		ID: string(t.ID), Name: t.Spec.Name, Framework: string(t.Framework), Role: string(t.Role),
		State: t.State.String(), Message: t.Status.Message, Reason: string(t.Status.Reason),
		Signal: t.Status.Signal, OOM: t.Status.OOM, ExitCode: exitCode(t.Status),
		Stopping: t.Kill && !t.State.Terminal(), Waiting: w, Agent: string(t.Agent),
		Priority: t.Standing.Priority, Revocable: t.Standing.Revocable, Preempted: t.Preempted,
		Submitted: utc(t.Submitted), Launched: utc(t.Launched), Ended: utc(t.Ended),
		Needs: needsDoc(t.Need), Image: t.Spec.Image, Command: t.Spec.Command,
		Env:     slices.Sorted(maps.Keys(t.Spec.Env)),
		WorkDir: t.Spec.WorkDir, User: t.Spec.User, ReadOnly: t.Spec.ReadOnly,
		Network: string(t.Spec.Network), PIDs: t.Spec.PIDs, KillGrace: client.Duration(t.Spec.KillGrace),
		Health: healthDoc(t.Status.Health), CheckResult: resultDoc(t.Status.Check),
		HealthCheck: checkDoc(t.Spec.Health, true), Check: checkDoc(t.Spec.Check, false),
		MaxTime: client.Duration(t.Spec.MaxCompletion), CPULimit: client.LimitOf(t.Spec.Limits.CPUs), MemLimit: client.LimitOf(t.Spec.Limits.Mem),
	}
	policyDocs(t, &d)
	if t.Agent != "" {
		r := resourcesDoc(t.Resources)
		d.Resources = &r
	}
	if whole {
		for _, s := range t.History {
			d.History = append(d.History, client.Status{
				Time: utc(s.Time), State: s.State.String(), Message: s.Message, Reason: string(s.Reason),
				ExitCode: exitCode(s), Signal: s.Signal, OOM: s.OOM, Health: healthDoc(s.Health), CheckResult: resultDoc(s.Check), Restarts: s.Restarts,
			})
		}
	}
	d.Revision = revision(d, t)
	return d
}

// revision changes with what people wait for. It is compared, never read.
func revision(d client.Task, t *state.Task) string {
	h := fnv.New64a()
	fmt.Fprint(h, t.Seq, t.State, t.Kill, t.Agent, t.ReplacedBy)
	if d.Waiting != nil {
		fmt.Fprint(h, *d.Waiting)
	}
	return fmt.Sprintf("%x", h.Sum64())
}

func exitCode(s fleet.Status) *int {
	if !s.State.Terminal() || s.ExitCode < 0 {
		return nil
	}
	return &s.ExitCode
}

func needsDoc(n fleet.Need) client.Needs {
	return client.Needs{
		CPUs: client.AmountOf(n.CPUs), Mem: client.AmountOf(n.Mem), Disk: client.AmountOf(n.Disk),
		GPUs: n.GPU.Count, GPUMemory: n.GPU.MinMemoryMB, GPUModel: n.GPU.Model,
		Site: string(n.Site), Agent: string(n.Agent), Labels: n.Labels,
	}
}

// resourcesDoc counts everything in r, whatever its class, and says which parts
// are not for everybody.
func resourcesDoc(r fleet.Resources) client.Resources {
	all := r.Total()
	gpus := make([]string, len(all.GPUs))
	for i, g := range all.GPUs {
		gpus[i] = string(g)
	}
	d := client.Resources{
		CPUs: client.AmountOf(all.CPUs), Mem: client.AmountOf(all.Mem), Disk: client.AmountOf(all.Quantity("disk")),
		GPUs: gpus, Ports: all.Ports.String(),
	}
	for _, a := range all.Custom {
		if d.Custom == nil {
			d.Custom = client.Quantities{}
		}
		d.Custom[a.Name] = client.AmountOf(a.Amount)
	}
	for _, p := range r.Parts {
		part := client.Reserved{Role: string(p.Class.Role()), Revocable: p.Class.Revocable, Resources: resourcesDoc(p.Resources)}
		if n := len(p.Class.Reserved); n > 0 {
			top := p.Class.Reserved[n-1]
			part.Dynamic, part.Principal = top.Dynamic, top.Principal
			for _, l := range top.Labels {
				if part.Labels == nil {
					part.Labels = map[string]string{}
				}
				part.Labels[l.Key] = l.Value
			}
		}
		d.Reserved = append(d.Reserved, part)
	}
	return d
}

// holdings is which tasks hold resources of which agent, and which GPU. What
// they are together counts all tasks, named or not.
type holdings struct {
	tasks map[fleet.AgentID][]string
	gpus  map[gpu.UUID]string
	used  map[fleet.AgentID]fleet.Resources
	// count is the number of tasks that have not ended, updates of those that
	// have and whose framework does not know.
	count, updates map[fleet.AgentID]int
}

// held are the tasks on agents, those that the asker may know.
func held(st *state.State, who access.Principal) holdings {
	h := holdings{
		map[fleet.AgentID][]string{},
		map[gpu.UUID]string{},
		map[fleet.AgentID]fleet.Resources{},
		map[fleet.AgentID]int{},
		map[fleet.AgentID]int{},
	}
	for _, t := range st.Tasks {
		switch {
		case t.Held():
			h.used[t.Agent] = h.used[t.Agent].Add(t.Resources)
			h.count[t.Agent]++
		case len(t.Pending) > 0:
			h.updates[t.Agent]++
			continue
		default:
			continue
		}
		if !who.MayUse(t.Role) {
			continue
		}
		h.tasks[t.Agent] = append(h.tasks[t.Agent], string(t.ID))
		for _, g := range t.Resources.Total().GPUs {
			h.gpus[g] = string(t.ID)
		}
	}
	return h
}

func agentDoc(now time.Time, a *fleet.Agent, soft AgentSoft, h holdings) client.Agent {
	d := client.Agent{
		ID: string(a.ID), Site: string(a.Site), Labels: a.Labels, Hostname: a.Hostname,
		State: client.AgentDisconnected, Link: soft.Link, Remote: soft.Remote, Version: soft.Version,
		Joined: utc(a.Joined), Since: utc(soft.Since), LastSeen: utc(soft.LastSeen), CertNotAfter: utc(a.CertNotAfter),
		Total: resourcesDoc(a.Total()), Used: resourcesDoc(h.used[a.ID]), GPUs: []client.GPU{}, Tasks: []string{},
		Availability: availability(now, a), Drain: drainDoc(a.Drain, h.count[a.ID], h.updates[a.ID]),
	}
	if a.Window != nil && !a.Revoked {
		w := windowDoc(now, a)
		d.Maintenance = &w
	}
	d.Healed, d.ClockOff = utc(a.Healed), client.Duration(soft.Readings.ClockOff.Round(time.Second))
	if c := a.Cloned; c != nil {
		d.Cloned = &client.Cloned{At: utc(c.At), Addr: c.Addr, Text: c.Text, Times: c.Times}
	}
	if !a.CertNotAfter.IsZero() {
		days := int(math.Floor(a.CertNotAfter.Sub(now).Hours() / 24))
		d.CertDaysLeft = &days
	}
	switch {
	case !a.Gone.IsZero():
		d.State = client.AgentGone
	case a.Revoked:
		d.State = client.AgentRevoked
	case soft.Connected:
		d.State, d.Replica = client.AgentConnected, string(soft.Replica)
		free := resourcesDoc(soft.Free)
		d.Free = &free
	case !a.Unreachable.IsZero():
		d.State = client.AgentUnreachable
	}
	if r := soft.Readings; !r.Time.IsZero() {
		d.Readings = &client.Readings{
			Time: utc(r.Time), CPUPercent: r.CPUPercent, FreeMem: r.FreeMemMB, FreeDisk: r.FreeDiskMB,
			Running: r.Tasks, Spooled: r.Spooled, Runtime: r.Runtime, Settings: r.Settings, Link: linkDoc(r.Link),
		}
		if u := r.Upgrade; u != (fleet.UpgradeStatus{}) {
			d.Readings.Upgrade = &client.AgentUpgrade{Version: u.Version, State: u.State, Text: u.Text}
		}
	}
	for _, dev := range a.Capacity.Devices {
		g := gpuDoc(dev)
		g.Task = h.gpus[dev.UUID]
		for _, r := range soft.Readings.GPUs {
			if r.UUID == dev.UUID {
				g.Reading = &client.GPUReading{UtilPercent: r.UtilPercent, MemoryUsed: r.MemoryUsedMB, TemperatureC: r.TemperatureC, PowerMW: r.PowerMW}
			}
		}
		d.GPUs = append(d.GPUs, g)
	}
	d.Tasks = append(d.Tasks, h.tasks[a.ID]...)
	slices.Sort(d.Tasks)
	return d
}

func gpuDoc(d gpu.Device) client.GPU {
	g := client.GPU{
		UUID: string(d.UUID), Model: d.Model, Memory: d.MemoryMB, Driver: d.Driver,
		Parent: string(d.Parent), Profile: d.Profile, Health: d.Health.String(), Reason: d.Reason,
	}
	if d.ComputeMajor != 0 {
		g.Compute = fmt.Sprintf("%d.%d", d.ComputeMajor, d.ComputeMinor)
	}
	return g
}

func offerDoc(o fleet.Offer) client.Offer {
	d := client.Offer{
		ID: string(o.ID), Framework: string(o.Framework), Role: string(o.Role), Agent: string(o.Agent),
		Site: string(o.Site), Hostname: o.Hostname, Labels: o.Labels,
		Resources: resourcesDoc(o.Resources), GPUs: []client.GPU{}, Expires: utc(o.Expires),
	}
	for _, dev := range o.Devices {
		d.GPUs = append(d.GPUs, gpuDoc(dev))
	}
	return d
}

func tokenDoc(t *state.Token) client.Token {
	return client.Token{
		ID: state.TokenID(t.Hash), Kind: string(t.Kind), Site: string(t.Site), Labels: t.Labels,
		Roles: roleNames(t.Roles), AllRoles: t.AllRoles,
		Uses: t.Uses, Created: utc(t.Created), Expires: utc(t.Expires),
	}
}

func roleNames(roles []fleet.Role) []string {
	var names []string
	for _, r := range roles {
		names = append(names, string(r))
	}
	return names
}

// utc keeps one spelling of an instant in JSON, whichever replica writes it.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

// linkDoc is nil for an agent that does not count.
func linkDoc(u fleet.LinkUse) *client.LinkUse {
	if u.Month == "" {
		return nil
	}
	return &client.LinkUse{
		Month: u.Month, Total: u.Total(), Keepalive: u.Keepalive, Readings: u.Readings, Updates: u.Updates, Images: u.Images,
		Logs: u.Logs, Budget: u.Budget, State: u.State,
	}
}
