package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// HeaderSignature carries the signature of a package, in base64.
const HeaderSignature = "Tender-Signature"

// uploadTime bounds the sending of a package.
const uploadTime = 15 * time.Minute

// Upgrade is all about versions of tender-agent.
type Upgrade struct {
	Keys     []ReleaseKey `json:"keys"`
	Packages []Package    `json:"packages"` // the newest version first
	// Rollout is the last one, nil before the first.
	Rollout *Rollout `json:"rollout,omitempty"`
}

// ReleaseKey is a public key that packages may be signed by.
type ReleaseKey struct {
	ID      string    `json:"id"`
	Key     string    `json:"key"` // minisign's text of it
	Comment string    `json:"comment,omitempty"`
	Added   time.Time `json:"added"`
}

// AddReleaseKey is the file of a public key.
type AddReleaseKey struct {
	Key string `json:"key"`
}

// Package is one package of tender-agent.
type Package struct {
	Version string    `json:"version"` // as agents tell it
	Arch    string    `json:"arch"`
	SHA256  string    `json:"sha256"`
	Size    int64     `json:"size"`
	Key     string    `json:"key"` // the id of the one that signed it
	Added   time.Time `json:"added,omitzero"`
	// Replicas have the file, of so many.
	Replicas []string `json:"replicas"`
	Of       int      `json:"of"`
}

// StartRollout asks for a rollout. Rings are [NAME=]SELECTOR, in their order.
type StartRollout struct {
	Version        string   `json:"version"`
	Rings          []string `json:"rings"`
	Soak           Duration `json:"soak"`
	Healthy        int      `json:"healthy"` // percent
	MaxFailures    int      `json:"max_failures"`
	AtOnce         int      `json:"at_once"`
	AllowDowngrade bool     `json:"allow_downgrade,omitempty"`
}

// Rollout is how far a version is. Phase is running, paused, aborted or
// finished.
type Rollout struct {
	ID      string `json:"id"`
	Version string `json:"version"`
	Phase   string `json:"phase"`
	// Reason is why it paused by itself.
	Reason         string        `json:"reason,omitempty"`
	Began          time.Time     `json:"began"`
	Since          time.Time     `json:"since"` // of the phase
	Soak           Duration      `json:"soak"`
	Healthy        int           `json:"healthy"` // percent
	MaxFailures    int           `json:"max_failures"`
	AtOnce         int           `json:"at_once"`
	AllowDowngrade bool          `json:"allow_downgrade,omitempty"`
	Rings          []RolloutRing `json:"rings"`
	// Outside are the agents that no ring chooses.
	Outside int `json:"outside"`
}

// RolloutRing is how far one ring is; the numbers count its agents.
type RolloutRing struct {
	Name     string    `json:"name"`
	Selector string    `json:"selector"`
	Opened   time.Time `json:"opened,omitzero"`
	Passed   time.Time `json:"passed,omitzero"`
	// WaitsFor is what the ring waits for; empty when it has passed.
	WaitsFor  string         `json:"waits_for,omitempty"`
	Agents    int            `json:"agents"`
	Healthy   int            `json:"healthy"` // have run the version for the soak
	Soaking   int            `json:"soaking"` // run it
	Upgrading int            `json:"upgrading"`
	Waiting   int            `json:"waiting"`
	Failed    int            `json:"failed"`
	Offline   int            `json:"offline"`
	Newer     int            `json:"newer"`   // run a newer version, and keep it
	TooOld    int            `json:"too_old"` // take no upgrades from here
	InFlight  []RolloutAgent `json:"in_flight"`
	Failures  []RolloutAgent `json:"failures"`
}

// RolloutAgent is one agent in a rollout.
type RolloutAgent struct {
	Agent     string `json:"agent"`
	State     string `json:"state,omitempty"` // as the agent tells it
	Text      string `json:"text,omitempty"`
	Connected bool   `json:"connected"`
	// Forgiven: the rollout was resumed after it had failed.
	Forgiven bool `json:"forgiven,omitempty"`
}

// AgentUpgrade is what an agent tells of an upgrade.
type AgentUpgrade struct {
	Version string `json:"version"`
	State   string `json:"state"`
	Text    string `json:"text,omitempty"`
}

// Upgrade tells of packages, release keys and the last rollout.
func (c *Client) Upgrade(ctx context.Context) (Upgrade, error) {
	return fetch[Upgrade](ctx, c, get("/v1/upgrade", nil), nil)
}

// AddReleaseKey adds a public key.
func (c *Client) AddReleaseKey(ctx context.Context, k AddReleaseKey) (Upgrade, error) {
	return fetch[Upgrade](ctx, c, post("/v1/upgrade/keys"), k)
}

// RemoveReleaseKey removes one by its id.
func (c *Client) RemoveReleaseKey(ctx context.Context, id string) (Upgrade, error) {
	return fetch[Upgrade](ctx, c, request{method: http.MethodDelete, path: "/v1/upgrade/keys/" + url.PathEscape(id)}, nil)
}

// AddPackage sends a package of size bytes and its signature. open gives it from
// its beginning, again for each replica that is asked.
func (c *Client) AddPackage(ctx context.Context, size int64, signature []byte, open func() (io.ReadCloser, error)) (p Package, err error) {
	r := request{
		method: http.MethodPost, path: "/v1/upgrade/packages", limit: uploadTime, binary: true, open: open, size: size,
		header: http.Header{HeaderSignature: {base64.StdEncoding.EncodeToString(signature)}},
	}
	err = c.send(ctx, r, func(body io.Reader) error {
		return json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&p)
	})
	return p, err
}

// RemovePackages removes the packages of a version.
func (c *Client) RemovePackages(ctx context.Context, version string) (Upgrade, error) {
	return fetch[Upgrade](ctx, c, request{method: http.MethodDelete, path: "/v1/upgrade/packages/" + url.PathEscape(version)}, nil)
}

// StartRollout begins a rollout.
func (c *Client) StartRollout(ctx context.Context, s StartRollout) (Upgrade, error) {
	return fetch[Upgrade](ctx, c, post("/v1/upgrade/start"), s)
}

// SteerRollout does with the rollout what verb says: pause, resume or abort.
func (c *Client) SteerRollout(ctx context.Context, verb string) (Upgrade, error) {
	return fetch[Upgrade](ctx, c, post(fmt.Sprintf("/v1/upgrade/%s", url.PathEscape(verb))), nil)
}
