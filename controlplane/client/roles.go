package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Quantities are amounts by name: cpus, mem and disk (in MiB), gpus, and the
// fleet's custom names. Memory may be written with a unit where it is asked
// for: "64G".
type Quantities map[string]Amount

// Role is one share holder of the role tree.
type Role struct {
	Role   string `json:"role"`
	Weight Amount `json:"weight"`
	// Guarantee and Limit are its quota; what has no limit is unlimited.
	Guarantee Quantities `json:"guarantee,omitempty"`
	Limit     Quantities `json:"limit,omitempty"`
	// Consumed is what counts against the quota now, that of the roles below it
	// included: reservations, used or not, and what tasks use beside. Offered is
	// on offer and counts as well until it is declined.
	Consumed Quantities `json:"consumed"`
	Offered  Quantities `json:"offered"`
	// Share is the dominant share, consumed and offered, in percent of the
	// fleet; Dominant is the resource that it is the share of.
	Share    Amount `json:"dominant_share_percent"`
	Dominant string `json:"dominant_resource,omitempty"`
	// Frameworks are those that act in the role or hold something in it.
	Frameworks []string `json:"frameworks"`
}

// RoleList has a role before those below it.
type RoleList struct {
	Roles []Role `json:"roles"`
}

// SetWeight is a role's weight: how much of the fleet it may have for each unit
// that a role of weight 1 has.
type SetWeight struct {
	Weight Amount `json:"weight"`
}

// Quota is what a role is guaranteed and what it must not exceed.
type Quota struct {
	Role      string     `json:"role"`
	Guarantee Quantities `json:"guarantee,omitempty"`
	Limit     Quantities `json:"limit,omitempty"`
}

// SetQuota replaces the quota of roles, of all or of none. Force accepts
// guarantees beyond what the fleet has, and names that no agent has.
type SetQuota struct {
	Quotas []Quota `json:"quotas"`
	Force  bool    `json:"force,omitempty"`
}

// Roles lists the roles that anything is known of.
func (c *Client) Roles(ctx context.Context) ([]Role, error) {
	l, err := fetch[RoleList](ctx, c, get("/v1/roles", nil), nil)
	return l.Roles, err
}

// SetWeight sets a role's weight and returns the role.
func (c *Client) SetWeight(ctx context.Context, role string, weight Amount) (Role, error) {
	return fetch[Role](ctx, c, put("/v1/roles/"+rolePath(role)+"/weight"), SetWeight{weight})
}

// SetQuota sets the quota of roles and returns them.
func (c *Client) SetQuota(ctx context.Context, q SetQuota) ([]Role, error) {
	l, err := fetch[RoleList](ctx, c, put("/v1/quota"), q)
	return l.Roles, err
}

// ClearQuota ends a role's quota.
func (c *Client) ClearQuota(ctx context.Context, role string) error {
	r := request{method: http.MethodDelete, path: "/v1/quota/" + rolePath(role), limit: callTime}
	return c.send(ctx, r, func(io.Reader) error { return nil })
}

func put(path string) request { return request{method: http.MethodPut, path: path} }

// rolePath keeps the slashes of a role, which are levels of the path.
func rolePath(role string) string {
	parts := strings.Split(role, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}
