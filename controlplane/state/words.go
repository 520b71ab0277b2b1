package state

import "strings"

// What the commands of schedulers and of operators are called in the audit log.

func (c *PutFramework) audit(Result) (action, target, detail string) {
	roles := make([]string, len(c.Info.Roles))
	for i, r := range c.Info.Roles {
		roles[i] = string(r)
	}
	return "framework.subscribe", string(c.Info.ID), "roles " + strings.Join(roles, ",")
}

func (c *Teardown) audit(Result) (action, target, detail string) {
	return "framework.teardown", string(c.ID), ""
}

func (c *LaunchGroup) audit(Result) (action, target, detail string) {
	ids := make([]string, len(c.Tasks))
	for i := range c.Tasks {
		ids[i] = string(c.Tasks[i].ID)
	}
	return "task.launch-group", strings.Join(ids, ","), ""
}

func (c *Acknowledge) audit(Result) (action, target, detail string) {
	return "task.acknowledge", string(c.Task), string(c.Update)
}

func (c *SetQuota) audit(Result) (action, target, detail string) {
	var roles, what []string
	for _, q := range c.Quotas {
		roles = append(roles, string(q.Role))
		for _, g := range q.Quota.Guarantee {
			what = append(what, g.Name+" guaranteed "+g.Amount.String())
		}
		for _, l := range q.Quota.Limit {
			what = append(what, l.Name+" limited to "+l.Amount.String())
		}
	}
	return "role.quota", strings.Join(roles, ","), strings.Join(what, ", ")
}

func (c *Convert) audit(Result) (action, target, detail string) {
	return "agent.reserve", identityWord(KindAgent, string(c.Agent)), c.From.String() + " to " + c.To.String()
}

func (c *DrainAgent) audit(Result) (action, target, detail string) {
	var how []string
	if c.MaxGrace > 0 {
		how = append(how, "grace at most "+c.MaxGrace.String())
	}
	if c.MarkGone {
		how = append(how, "then gone")
	}
	return "agent.drain", identityWord(KindAgent, string(c.Agent)), strings.Join(how, ", ")
}

func (c *SetActive) audit(Result) (action, target, detail string) {
	if c.Active {
		return "agent.reactivate", identityWord(KindAgent, string(c.Agent)), ""
	}
	return "agent.deactivate", identityWord(KindAgent, string(c.Agent)), ""
}

func (c *MarkGone) audit(Result) (action, target, detail string) {
	return "agent.gone", identityWord(KindAgent, string(c.Agent)), ""
}

func (c *Replace) audit(r Result) (action, target, detail string) {
	return "task.replace", string(c.Task), "by " + r.ID
}

func (c *SetMaintenance) audit(Result) (action, target, detail string) {
	ids := make([]string, len(c.Agents))
	for i, id := range c.Agents {
		ids[i] = string(id)
	}
	if c.Window == nil {
		return "agent.maintenance", strings.Join(ids, ","), "none"
	}
	when := "from " + c.Window.Start.UTC().Format("2006-01-02T15:04:05Z")
	if c.Window.Duration > 0 {
		when += " for " + c.Window.Duration.String()
	}
	return "agent.maintenance", strings.Join(ids, ","), when
}
