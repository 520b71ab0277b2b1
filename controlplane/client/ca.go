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
}

// CA tells what the fleet trusts.
func (c *Client) CA(ctx context.Context) (CA, error) {
	return fetch[CA](ctx, c, get("/v1/ca", nil), nil)
}
