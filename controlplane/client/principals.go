package client

import (
	"context"
	"net/url"
	"strconv"
	"time"
)

// CreatePrincipal asks for a principal that shows who it is by a bearer token.
// Kind is operator, framework or reader. A framework needs Roles or AllRoles;
// the others may use all roles unless Roles limit them. A role stands for its
// descendants in the role tree as well.
type CreatePrincipal struct {
	ID       string   `json:"id"`
	Kind     string   `json:"kind"`
	Roles    []string `json:"roles,omitempty"`
	AllRoles bool     `json:"all_roles,omitempty"`
	// TTL is how long the token holds, 30 days when it is zero.
	TTL Duration `json:"ttl,omitzero"`
}

// States of a principal.
const (
	PrincipalActive  = "active"
	PrincipalExpired = "expired"
	PrincipalRevoked = "revoked"
)

// Principal is a party that may use the API. Token is its bearer token; only
// the answer to CreatePrincipal has it, for nobody stores it, and says beside
// it where the replicas are and which root (Pin) they show.
type Principal struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	Roles    []string  `json:"roles,omitempty"`
	AllRoles bool      `json:"all_roles,omitempty"`
	State    string    `json:"state"`
	HasToken bool      `json:"has_token"`
	Created  time.Time `json:"created,omitzero"`
	// Expires is when its token or certificate ends.
	Expires      time.Time `json:"expires,omitzero"`
	CertNotAfter time.Time `json:"cert_not_after,omitzero"`
	Revoked      time.Time `json:"revoked,omitzero"`
	Token        string    `json:"token,omitempty"`
	Servers      []string  `json:"servers,omitempty"`
	Pin          string    `json:"pin,omitempty"`
}

// Whoami is who the control plane takes the asker for.
type Whoami struct {
	Principal string   `json:"principal"` // "framework/marathon"
	Roles     []string `json:"roles,omitempty"`
	AllRoles  bool     `json:"all_roles,omitempty"`
}

// AuditEntry is one command that somebody asked for. Refused is why it was not
// done, empty when it was.
type AuditEntry struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	By      string    `json:"by"`     // "operator/alice"
	Action  string    `json:"action"` // "token.create"
	Target  string    `json:"target,omitempty"`
	Detail  string    `json:"detail,omitempty"`
	Refused string    `json:"refused,omitempty"`
}

// The answers that hold lists. Omitted counts what a limit left out.
type (
	PrincipalList struct {
		Principals []Principal `json:"principals"`
	}
	AuditList struct {
		Entries []AuditEntry `json:"entries"`
		Omitted int          `json:"omitted,omitempty"`
	}
)

// CreatePrincipal makes a principal. The answer alone holds its token.
func (c *Client) CreatePrincipal(ctx context.Context, p CreatePrincipal) (Principal, error) {
	return fetch[Principal](ctx, c, post("/v1/principals"), p)
}

// Principals lists the principals by id, those that have ended too.
func (c *Client) Principals(ctx context.Context) ([]Principal, error) {
	l, err := fetch[PrincipalList](ctx, c, get("/v1/principals", nil), nil)
	return l.Principals, err
}

// RevokePrincipal ends a principal for good.
func (c *Client) RevokePrincipal(ctx context.Context, id string) (Principal, error) {
	return fetch[Principal](ctx, c, post("/v1/principals/"+url.PathEscape(id)+"/revoke"), nil)
}

// Whoami tells who the caller is.
func (c *Client) Whoami(ctx context.Context) (Whoami, error) {
	return fetch[Whoami](ctx, c, get("/v1/whoami", nil), nil)
}

// AuditFilter chooses entries of the audit log: the newest Limit (100 when it
// is zero) of those by By, which is a principal ("operator/alice") or a kind of
// them ("operator").
type AuditFilter struct {
	By    string
	Limit int
}

// Audit lists entries of the audit log, the oldest first.
func (c *Client) Audit(ctx context.Context, f AuditFilter) (AuditList, error) {
	q := url.Values{}
	if f.By != "" {
		q.Set("by", f.By)
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return fetch[AuditList](ctx, c, get("/v1/audit", q), nil)
}
