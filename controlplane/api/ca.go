package api

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/rotation"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
)

// CA is what operators do with the fleet's authorities. Errors are as
// Backend's.
type CA interface {
	// Rotate begins, hastens or finishes a rotation.
	Rotate(ctx context.Context, o client.RotateCA, by string) error
	// Turning tells what a rotation waits for.
	Turning(ctx context.Context) (rotation.View, error)
}

// rotateCA answers with what the trust looks like then.
func (h *handler) rotateCA(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.RotateCA](w, r, true)
	switch {
	case err != nil:
		return err
	case in.Intermediate && (in.Finish || in.RevokeOld):
		return badRequest("a rotation of intermediates finishes by itself and leaves the root: give intermediate alone")
	}
	if err := h.CA.Rotate(r.Context(), in, access.From(r.Context()).String()); err != nil {
		return err
	}
	noteDone(r.Context())
	return h.showCA(w, r)
}

func (h *handler) rotationDoc(ctx context.Context) (*client.Rotation, error) {
	if h.CA == nil {
		return nil, nil
	}
	v, err := h.CA.Turning(ctx)
	rot := v.Rotation
	if err != nil || rot == nil {
		return nil, err
	}
	return &client.Rotation{
		Number: rot.Number, Kind: string(rot.Kind), Phase: string(rot.Phase), Holder: string(rot.Holder), Old: rot.OldPin, New: rot.NewPin,
		Began: utc(rot.Began), Since: utc(rot.Since), Force: rot.Force, RevokeOld: rot.RevokeOld,
		Replicas: plain(v.Behind), Silent: plain(v.Silent), Agents: plain(v.Waiting), Away: plain(v.Away),
	}, nil
}

func plain[T ~string](ids []T) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}

// showCA tells what the fleet trusts and who knows of it.
func (h *handler) showCA(w http.ResponseWriter, r *http.Request) error {
	soft, err := h.b.Soft(r.Context())
	if err != nil {
		return err
	}
	doc := client.CA{Roots: []client.Root{}, Issuers: []client.Issuer{}, Behind: []string{}, Away: []string{}}
	var bad error
	err = h.b.Read(r.Context(), func(st *state.State) {
		doc.TrustDomain, doc.BundleVersion = st.TrustDomain, st.BundleVersion
		for _, id := range state.SortedKeys(st.Agents) {
			a := soft.Agents[id]
			switch {
			case st.Agents[id].Revoked:
			case !a.Connected:
				doc.Away = append(doc.Away, string(id))
			case a.Readings.Bundle >= st.BundleVersion:
				doc.Have++
			default:
				doc.Behind = append(doc.Behind, string(id))
			}
		}
		bad = issuersDoc(&doc, st)
	})
	if err == nil {
		err = bad
	}
	if err == nil {
		doc.Rotation, err = h.rotationDoc(r.Context())
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, doc)
}

func issuersDoc(doc *client.CA, st *state.State) error {
	bundle, err := pki.ParseBundle(st.Bundle, st.BundleVersion)
	if err != nil {
		return err
	}
	for i, pin := range bundle.Pins() {
		root := bundle.Roots[i]
		doc.Roots = append(doc.Roots, client.Root{Pin: pin, NotBefore: utc(root.NotBefore), NotAfter: utc(root.NotAfter)})
	}
	for _, id := range state.SortedKeys(st.Replicas) {
		rec := st.Replicas[id]
		if len(rec.Intermediate) == 0 {
			continue // it has joined and not said yet
		}
		inter, err := x509.ParseCertificate(rec.Intermediate)
		if err != nil {
			return fmt.Errorf("issuing authority of %s: %w", id, err)
		}
		issuer := client.Issuer{Replica: string(id), NotBefore: utc(inter.NotBefore), NotAfter: utc(inter.NotAfter), Rotation: rec.Round, Late: len(rec.Cross) > 0}
		for i, root := range bundle.Roots {
			if inter.CheckSignatureFrom(root) == nil {
				issuer.Root = doc.Roots[i].Pin
			}
		}
		doc.Issuers = append(doc.Issuers, issuer)
	}
	return nil
}
