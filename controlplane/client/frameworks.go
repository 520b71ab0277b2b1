package client

import (
	"context"
	"net/url"
	"strconv"
	"time"
)

// States of a framework.
const (
	FrameworkConnected    = "connected"
	FrameworkDisconnected = "disconnected"
	FrameworkTornDown     = "torn_down"
)

// Framework is a scheduler: a built-in one, or one that came over the Mesos
// API.
type Framework struct {
	ID        string   `json:"id"`
	Name      string   `json:"name,omitempty"`
	Principal string   `json:"principal,omitempty"`
	BuiltIn   bool     `json:"built_in,omitempty"`
	State     string   `json:"state"`
	Roles     []string `json:"roles"`
	// Suppressed are the roles in which it wants no offers.
	Suppressed   []string  `json:"suppressed_roles,omitempty"`
	Capabilities []string  `json:"capabilities,omitempty"`
	Hostname     string    `json:"hostname,omitempty"`
	WebUI        string    `json:"webui_url,omitempty"`
	Registered   time.Time `json:"registered,omitzero"`
	Since        time.Time `json:"connected_since,omitzero"`
	Away         time.Time `json:"disconnected_since,omitzero"`
	TornDown     time.Time `json:"torn_down,omitzero"`
	// Failover is how long its tasks live on without it; FailoverLeft is what is
	// left of that while it is away.
	Failover     Duration  `json:"failover_timeout,omitzero"`
	FailoverLeft *Duration `json:"failover_left,omitempty"`
	Offers       int       `json:"offers"`
	Inverse      int       `json:"inverse_offers"`
	// Tasks counts its tasks by their states, those that have ended and are still
	// known too.
	Tasks map[string]int `json:"tasks"`
}

// FrameworkList has the frameworks by id.
type FrameworkList struct {
	Frameworks []Framework `json:"frameworks"`
}

// Frameworks lists the frameworks; with all, those that were torn down too.
func (c *Client) Frameworks(ctx context.Context, all bool) ([]Framework, error) {
	l, err := fetch[FrameworkList](ctx, c, get("/v1/frameworks", url.Values{"all": {strconv.FormatBool(all)}}), nil)
	return l.Frameworks, err
}

func frameworkPath(id, more string) string { return "/v1/frameworks/" + url.PathEscape(id) + more }

// Framework returns one framework.
func (c *Client) Framework(ctx context.Context, id string) (Framework, error) {
	return fetch[Framework](ctx, c, get(frameworkPath(id, ""), nil), nil)
}

// TeardownFramework ends a framework and its tasks for good.
func (c *Client) TeardownFramework(ctx context.Context, id string) (Framework, error) {
	return fetch[Framework](ctx, c, post(frameworkPath(id, "/teardown")), nil)
}

// FrameworkWhy says what keeps a framework from offers. Reason, when not empty,
// is why it gets none at all; else Roles has the reasons in each.
type FrameworkWhy struct {
	Framework string    `json:"framework"`
	Name      string    `json:"name,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Roles     []RoleWhy `json:"roles"`
	// OmittedRoles counts roles beyond the first ones, which are not explained.
	OmittedRoles int `json:"omitted_roles,omitempty"`
}

// RoleWhy is what a framework can expect in one role. Offers counts those that
// are out to it, Open the agents that it would be offered next.
type RoleWhy struct {
	Role       string     `json:"role"`
	Suppressed bool       `json:"suppressed,omitempty"`
	Offers     int        `json:"offers"`
	Open       int        `json:"open"`
	Obstacles  []Obstacle `json:"obstacles"`
	// Omitted counts agents with rarer reasons.
	Omitted int `json:"omitted,omitempty"`
}

// Obstacle is one reason, and how many agents it is about. Agents has the first
// of them. Until is when the first filter of a framework that declined ends.
type Obstacle struct {
	Reason string    `json:"reason"`
	Count  int       `json:"count"`
	Agents []string  `json:"agents"`
	Until  time.Time `json:"until,omitzero"`
}

// WhyFramework says what keeps a framework from offers.
func (c *Client) WhyFramework(ctx context.Context, id string) (FrameworkWhy, error) {
	return fetch[FrameworkWhy](ctx, c, get(frameworkPath(id, "/why"), nil), nil)
}

// InverseOffer asks a framework to give back what it holds on an agent that
// will be down.
type InverseOffer struct {
	ID        string    `json:"id"`
	Framework string    `json:"framework"`
	Agent     string    `json:"agent"`
	Resources Resources `json:"resources"`
	Start     time.Time `json:"start"`
	Duration  Duration  `json:"duration,omitzero"`
}
