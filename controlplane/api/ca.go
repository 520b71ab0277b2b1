package api

import (
	"crypto/x509"
	"fmt"
	"net/http"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
)

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
			continue // it has joined and never led; only leaders record theirs
		}
		inter, err := x509.ParseCertificate(rec.Intermediate)
		if err != nil {
			return fmt.Errorf("issuing authority of %s: %w", id, err)
		}
		issuer := client.Issuer{Replica: string(id), NotBefore: utc(inter.NotBefore), NotAfter: utc(inter.NotAfter)}
		for i, root := range bundle.Roots {
			if inter.CheckSignatureFrom(root) == nil {
				issuer.Root = doc.Roots[i].Pin
			}
		}
		doc.Issuers = append(doc.Issuers, issuer)
	}
	return nil
}
