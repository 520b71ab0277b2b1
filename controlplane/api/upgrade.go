package api

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/client/release"
	"github.com/tenderfleet/tender/controlplane/rollout"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Upgrades keeps packages of tender-agent. Errors are as Backend's, and those of
// package release.
type Upgrades interface {
	// AddPackage reads a package, verifies its signature, and records it once a
	// majority of the replicas has it: holders. by is who asks.
	AddPackage(ctx context.Context, signature string, body io.Reader, by string) (p state.Package, holders []fleet.ReplicaID, err error)
	// Holders says which replicas have the package of a digest. It never blocks.
	Holders(sum string) []fleet.ReplicaID
}

// uploadTime bounds the transfer of a package, and its way to the other
// replicas.
const uploadTime = 15 * time.Minute

// upgrades adds the routes about versions of tender-agent.
func (h *handler) upgrades(mux *http.ServeMux) {
	if h.Upgrades == nil {
		return
	}
	do := func(do route) http.Handler { return h.leader(access.Administer, callTime, do) }
	mux.Handle("GET /v1/upgrade", h.leader(access.SeeFleet, callTime, h.showUpgrade))
	mux.Handle("POST /v1/upgrade/keys", do(h.addReleaseKey))
	mux.Handle("DELETE /v1/upgrade/keys/{id}", do(h.removeReleaseKey))
	mux.Handle("POST /v1/upgrade/packages", h.leader(access.Administer, uploadTime, h.addPackage))
	mux.Handle("DELETE /v1/upgrade/packages/{version}", do(h.removePackages))
	mux.Handle("POST /v1/upgrade/start", do(h.startRollout))
	mux.Handle("POST /v1/upgrade/pause", do(h.steerRollout(state.RolloutPaused)))
	mux.Handle("POST /v1/upgrade/resume", do(h.steerRollout(state.RolloutRunning)))
	mux.Handle("POST /v1/upgrade/abort", do(h.steerRollout(state.RolloutAborted)))
}

func (h *handler) addReleaseKey(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.AddReleaseKey](w, r, false)
	if err != nil {
		return err
	}
	key, err := release.ParseKey(in.Key)
	if err != nil {
		return client.NewProblem(client.CodeInvalid, "", "%v", err)
	}
	c := state.Command{PutReleaseKey: &state.ReleaseKey{ID: key.ID, Key: key.Text, Comment: key.Comment}}
	if _, err := h.propose(r.Context(), c); err != nil {
		return err
	}
	return h.showUpgrade(w, r)
}

func (h *handler) removeReleaseKey(w http.ResponseWriter, r *http.Request) error {
	c := state.Command{DropReleaseKey: &state.DropReleaseKey{ID: strings.ToUpper(r.PathValue("id"))}}
	if _, err := h.propose(r.Context(), c); err != nil {
		return err
	}
	return h.showUpgrade(w, r)
}

// addPackage takes the file as the body, and its signature in a header.
func (h *handler) addPackage(w http.ResponseWriter, r *http.Request) error {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(uploadTime))
	if r.ContentLength > fleet.MaxPackageSize {
		return client.NewProblem(client.CodeTooLarge, "", "the package has %d bytes, the limit is %d", r.ContentLength, int64(fleet.MaxPackageSize))
	}
	signature, err := base64.StdEncoding.DecodeString(r.Header.Get(client.HeaderSignature))
	if err != nil || len(signature) > fleet.MaxSignature {
		return badRequest("the header %s is to hold the signature, in base64", client.HeaderSignature)
	}
	p, holders, err := h.Upgrades.AddPackage(r.Context(), string(signature), r.Body, access.From(r.Context()).String())
	switch {
	case errors.Is(err, release.ErrSignature), errors.Is(err, release.ErrPackage):
		return client.NewProblem(client.CodeInvalid, "", "%v", err)
	case err != nil:
		return err
	}
	noteDone(r.Context())
	p.Added = h.Now()
	return answer(w, http.StatusOK, h.packageDoc(p, holders))
}

func (h *handler) removePackages(w http.ResponseWriter, r *http.Request) error {
	version, err := h.versionOf(r.Context(), r.PathValue("version"))
	if err != nil {
		return err
	}
	if _, err := h.propose(r.Context(), state.Command{DropPackages: &state.DropPackages{Version: version}}); err != nil {
		return err
	}
	return h.showUpgrade(w, r)
}

// versionOf finds the version that is meant: agents put a "v" before theirs.
func (h *handler) versionOf(ctx context.Context, text string) (version string, err error) {
	version = text
	err = h.b.Read(ctx, func(st *state.State) {
		if len(st.PackagesOf(text)) == 0 && len(st.PackagesOf("v"+text)) > 0 {
			version = "v" + text
		}
	})
	return version, err
}

func (h *handler) startRollout(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.StartRollout](w, r, false)
	if err != nil {
		return err
	}
	rings, err := rollout.ParseRings(in.Rings)
	if err != nil {
		return client.NewProblem(client.CodeInvalid, "", "%v", err)
	}
	version, err := h.versionOf(r.Context(), in.Version)
	if err != nil {
		return err
	}
	c := &state.Rollout{
		ID: fleet.RolloutID(h.NewID("rollout")), Version: version, Healthy: in.Healthy, Soak: time.Duration(in.Soak),
		MaxFailures: in.MaxFailures, AtOnce: in.AtOnce, Downgrade: in.AllowDowngrade,
	}
	soft, err := h.b.Soft(r.Context())
	if err != nil {
		return err
	}
	var older, newer int
	err = h.b.Read(r.Context(), func(st *state.State) {
		c.Rings = rollout.Fix(c.ID, rings, st.Agents)
		for id, s := range Seen(soft) {
			switch n := rollout.Compare(s.Version, version); {
			case st.Agents[id] == nil:
			case n > 0:
				newer++
			case n < 0:
				older++
			}
		}
	})
	switch {
	case err != nil:
		return err
	case newer > 0 && older == 0 && !in.AllowDowngrade:
		return client.NewProblem(client.CodeConflict, "to bring them back to it all the same: --allow-downgrade",
			"no connected agent runs an older version than %s, and %d run a newer one", version, newer)
	}
	if _, err := h.propose(r.Context(), state.Command{StartRollout: c}); err != nil {
		return err
	}
	return h.showUpgrade(w, r)
}

func (h *handler) steerRollout(to state.RolloutPhase) route {
	return func(w http.ResponseWriter, r *http.Request) error {
		var id fleet.RolloutID
		err := h.b.Read(r.Context(), func(st *state.State) {
			if st.Rollout != nil {
				id = st.Rollout.ID
			}
		})
		switch {
		case err != nil:
			return err
		case id == "":
			return client.NewProblem(client.CodeConflict, "begin one with: tender upgrade start VERSION", "there is no rollout")
		}
		if _, err := h.propose(r.Context(), state.Command{SteerRollout: &state.SteerRollout{ID: id, To: to}}); err != nil {
			return err
		}
		return h.showUpgrade(w, r)
	}
}

// Seen is what a rollout goes by, of what the leader knows of agents. Those that
// tell of their trust bundle take upgrades, too: both came with capability 3.
func Seen(soft Soft) map[fleet.AgentID]rollout.Seen {
	seen := make(map[fleet.AgentID]rollout.Seen, len(soft.Agents))
	for id, a := range soft.Agents {
		if a.Connected {
			seen[id] = rollout.Seen{
				Version: a.Version, Told: !a.Readings.Time.IsZero(), Able: a.Readings.Bundle > 0, Upgrade: a.Readings.Upgrade,
			}
		}
	}
	return seen
}

func (h *handler) showUpgrade(w http.ResponseWriter, r *http.Request) error {
	soft, err := h.b.Soft(r.Context())
	if err != nil {
		return err
	}
	doc, seen, now := client.Upgrade{Keys: []client.ReleaseKey{}, Packages: []client.Package{}}, Seen(soft), h.Now()
	var list []state.Package
	err = h.b.Read(r.Context(), func(st *state.State) {
		for _, id := range state.SortedKeys(st.ReleaseKeys) {
			k := st.ReleaseKeys[id]
			doc.Keys = append(doc.Keys, client.ReleaseKey{ID: id, Key: k.Key, Comment: k.Comment, Added: utc(k.Added)})
		}
		for _, sum := range byVersion(st) {
			list = append(list, *st.Packages[sum])
		}
		doc.Rollout = rolloutDoc(rollout.Look(now, st, seen))
	})
	if err != nil {
		return err
	}
	for _, p := range list { // outside: it asks the replica
		doc.Packages = append(doc.Packages, h.packageDoc(p, h.Upgrades.Holders(p.SHA256)))
	}
	return answer(w, http.StatusOK, doc)
}

func (h *handler) packageDoc(p state.Package, holders []fleet.ReplicaID) client.Package {
	return client.Package{
		Version: p.Version, Arch: p.Arch, SHA256: p.SHA256, Size: p.Size, Key: p.Key, Added: utc(p.Added),
		Replicas: plain(holders), Of: len(h.b.Status().Replicas),
	}
}
