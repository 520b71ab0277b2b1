package client

import (
	"context"
	"time"
)

// CA is what the fleet trusts: its roots, who issues certificates under them,
// and which agents have the newest trust bundle.
type CA struct {
	TrustDomain   string   `json:"trust_domain"`
	BundleVersion uint64   `json:"bundle_version"`
	Roots         []Root   `json:"roots"`
	Issuers       []Issuer `json:"issuers"`
	// Have counts the connected agents that have stored the newest bundle,
	// Behind names those that have told of an older one or of none. Away are
	// those that are not connected: they get it when they are back.
	Have   int      `json:"have"`
	Behind []string `json:"behind"`
	Away   []string `json:"away"`
	// Rotation is the last one, nil before the first.
	Rotation *Rotation `json:"rotation,omitempty"`
}

// RotateCA asks for a rotation: of the root and all below it, unless
// Intermediate says of the replicas' intermediates alone.
type RotateCA struct {
	Intermediate bool `json:"intermediate,omitempty"`
	// Finish ends the rotation that is under way: the old root is trusted no
	// more.
	Finish bool `json:"finish,omitempty"`
	// Force waits for nobody that does not answer.
	Force bool `json:"force,omitempty"`
	// RevokeOld serves nothing of the old root: whoever was away joins again.
	RevokeOld bool `json:"revoke_old,omitempty"`
}

// Rotation is how far a rotation is. Phase is making, trusting, issuing,
// renewing or finished; Kind is root or intermediate.
type Rotation struct {
	Number    uint64    `json:"number"`
	Kind      string    `json:"kind"`
	Phase     string    `json:"phase"`
	Holder    string    `json:"holder"`
	Old       string    `json:"old_root,omitempty"`
	New       string    `json:"new_root,omitempty"`
	Began     time.Time `json:"began"`
	Since     time.Time `json:"since"`
	Force     bool      `json:"force,omitempty"`
	RevokeOld bool      `json:"revoke_old,omitempty"`
	// Waits for: replicas that answer, those that do not, connected agents, and
	// agents that are away and hold a certificate of the old root.
	Replicas []string `json:"waits_for_replicas"`
	Silent   []string `json:"waits_for_silent_replicas"`
	Agents   []string `json:"waits_for_agents"`
	Away     []string `json:"away_with_old_root"`
}

// Root is one trust root; Pin is what join lines name it by.
type Root struct {
	Pin       string    `json:"pin"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// Issuer is the issuing authority of one replica. Root is the pin of the root
// that signed it, empty when that is trusted no more.
type Issuer struct {
	Replica   string    `json:"replica"`
	Root      string    `json:"root,omitempty"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	// Rotation is the one it was made for, 0 for none; Late: late-comers that
	// know the old root alone can verify it.
	Rotation uint64 `json:"rotation,omitempty"`
	Late     bool   `json:"late_comers,omitempty"`
}

// CA tells what the fleet trusts.
func (c *Client) CA(ctx context.Context) (CA, error) {
	return fetch[CA](ctx, c, get("/v1/ca", nil), nil)
}

// RotateCA begins, hastens or finishes a rotation, and tells how far it is.
func (c *Client) RotateCA(ctx context.Context, o RotateCA) (CA, error) {
	return fetch[CA](ctx, c, post("/v1/ca/rotate"), o)
}
