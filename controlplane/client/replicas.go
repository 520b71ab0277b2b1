package client

import (
	"context"
	"net/url"
)

// TrioReplicas is Replicas as the leader sees them: it alone knows how all of
// them are.
func (c *Client) TrioReplicas(ctx context.Context) (Replicas, error) {
	return fetch[Replicas](ctx, c, get("/v1/replicas", url.Values{"from": {"leader"}}), nil)
}

// RemoveReplica asks for a replica's removal.
type RemoveReplica struct {
	// Force removes it even when those that are left have no majority that
	// answers.
	Force bool `json:"force,omitempty"`
}

// RemoveReplica takes a replica out of the control plane and bans its identity.
// It returns those that are left.
func (c *Client) RemoveReplica(ctx context.Context, id string, o RemoveReplica) (Replicas, error) {
	return fetch[Replicas](ctx, c, post("/v1/replicas/"+url.PathEscape(id)+"/remove"), o)
}

// Orphan is a task that an agent runs and a restored state does not know.
type Orphan struct {
	Task  string `json:"task"`
	State string `json:"state"` // as it said last
}

// SettleAgent says that what an agent runs beyond a restored state is to end,
// and that it may have work again.
func (c *Client) SettleAgent(ctx context.Context, id string) (Agent, error) {
	return fetch[Agent](ctx, c, post(agentPath(id, "/settle")), nil)
}
