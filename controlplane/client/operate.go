package client

import (
	"context"
	"net/url"
	"time"
)

// What an agent is available for, beside the state of its link.
const (
	AgentActive      = "active"
	AgentDraining    = "draining"
	AgentDrained     = "drained"
	AgentDeactivated = "deactivated"
	AgentMaintenance = "maintenance" // within an announced window
	AgentUnsettled   = "unsettled"   // restored: see Agent.Unsettled
)

// Drain is how an agent is emptied. TasksLeft counts tasks that have not ended,
// UpdatesLeft those that have and whose framework has not acknowledged it.
type Drain struct {
	Started     time.Time `json:"started"`
	MaxGrace    Duration  `json:"max_grace,omitzero"`
	MarkGone    bool      `json:"mark_gone,omitempty"`
	Done        time.Time `json:"done,omitzero"`
	TasksLeft   int       `json:"tasks_left"`
	UpdatesLeft int       `json:"updates_left"`
	// Revision changes whenever something here does.
	Revision string `json:"revision"`
}

// StartDrain asks for an agent to be emptied. MaxGrace shortens the grace
// periods of its tasks; each has its own without it. MarkGone removes the agent
// from the fleet when it is empty.
type StartDrain struct {
	MaxGrace *Duration `json:"max_grace,omitempty"`
	MarkGone bool      `json:"mark_gone,omitempty"`
}

// Window is when an agent will be down for maintenance; without a Duration
// there is no end.
type Window struct {
	Agent    string    `json:"agent"`
	Start    time.Time `json:"start"`
	Duration Duration  `json:"duration,omitzero"`
	// Now: it has begun and has not ended.
	Now bool `json:"now"`
}

// SetMaintenance announces when agents will be down: those who hold something
// there are asked to give it back. All of them get the window, or none.
type SetMaintenance struct {
	Agents   []string  `json:"agents"`
	Start    time.Time `json:"start"`
	Duration Duration  `json:"duration,omitzero"`
}

// ClearMaintenance takes announcements back.
type ClearMaintenance struct {
	Agents []string `json:"agents"`
}

// WindowList has the windows in the order of their starts.
type WindowList struct {
	Windows []Window `json:"windows"`
}

// Reserve sets resources of an agent aside for a role and those below it, or
// ends that. GPUs are so many of any kind (gpus), or named (GPUUUIDs).
type Reserve struct {
	Role      string     `json:"role"`
	Resources Quantities `json:"resources,omitempty"`
	GPUUUIDs  []string   `json:"gpu_uuids,omitempty"`
}

// Reserved is a part of Resources that is not for everybody. A static
// reservation is the agent's configuration; a dynamic one was made by a call.
type Reserved struct {
	Role      string            `json:"role,omitempty"`
	Dynamic   bool              `json:"dynamic,omitempty"`
	Revocable bool              `json:"revocable,omitempty"`
	Principal string            `json:"principal,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Resources Resources         `json:"resources"`
}

func agentPath(id, more string) string { return "/v1/agents/" + url.PathEscape(id) + more }

// WaitDrain returns an agent once the revision of its drain is not after any
// more, and in any case after wait.
func (c *Client) WaitDrain(ctx context.Context, id, after string, wait time.Duration) (Agent, error) {
	r := get(agentPath(id, ""), url.Values{"after": {after}, "wait": {wait.String()}})
	r.limit = wait + callTime
	return fetch[Agent](ctx, c, r, nil)
}

// DrainAgent begins to empty an agent.
func (c *Client) DrainAgent(ctx context.Context, id string, d StartDrain) (Agent, error) {
	return fetch[Agent](ctx, c, post(agentPath(id, "/drain")), d)
}

// DeactivateAgent ends offers of an agent; its tasks stay.
func (c *Client) DeactivateAgent(ctx context.Context, id string) (Agent, error) {
	return fetch[Agent](ctx, c, post(agentPath(id, "/deactivate")), nil)
}

// ReactivateAgent has an agent offered again.
func (c *Client) ReactivateAgent(ctx context.Context, id string) (Agent, error) {
	return fetch[Agent](ctx, c, post(agentPath(id, "/reactivate")), nil)
}

// MarkAgentGone says that an agent will never be back. Its tasks end, and its
// id is not given out again.
func (c *Client) MarkAgentGone(ctx context.Context, id string) (Agent, error) {
	return fetch[Agent](ctx, c, post(agentPath(id, "/gone")), nil)
}

// Reserve makes a reservation and returns the agent.
func (c *Client) Reserve(ctx context.Context, id string, r Reserve) (Agent, error) {
	return fetch[Agent](ctx, c, post(agentPath(id, "/reserve")), r)
}

// Unreserve ends reservations that calls have made, and returns the agent.
func (c *Client) Unreserve(ctx context.Context, id string, r Reserve) (Agent, error) {
	return fetch[Agent](ctx, c, post(agentPath(id, "/unreserve")), r)
}

// Maintenance lists the announced windows.
func (c *Client) Maintenance(ctx context.Context) ([]Window, error) {
	l, err := fetch[WindowList](ctx, c, get("/v1/maintenance", nil), nil)
	return l.Windows, err
}

// SetMaintenance announces a window and returns all that are announced.
func (c *Client) SetMaintenance(ctx context.Context, m SetMaintenance) ([]Window, error) {
	l, err := fetch[WindowList](ctx, c, post("/v1/maintenance"), m)
	return l.Windows, err
}

// ClearMaintenance takes windows back and returns those that are left.
func (c *Client) ClearMaintenance(ctx context.Context, agents []string) ([]Window, error) {
	l, err := fetch[WindowList](ctx, c, post("/v1/maintenance/clear"), ClearMaintenance{agents})
	return l.Windows, err
}
