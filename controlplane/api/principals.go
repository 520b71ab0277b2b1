package api

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// How long a principal's token may hold. A framework is not logged in anew by
// a person, so it is longer than a join token.
const (
	defaultPrincipalTTL = 30 * 24 * time.Hour
	maxPrincipalTTL     = 366 * 24 * time.Hour
)

func (h *handler) createPrincipal(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.CreatePrincipal](w, r, false)
	if err != nil {
		return err
	}
	ttl := cmp.Or(time.Duration(in.TTL), defaultPrincipalTTL)
	if ttl < 0 || ttl > maxPrincipalTTL {
		return invalid(errors.New("ttl: write a duration up to 8784h (366 days)"))
	}
	token := access.Token(in.ID, pki.NewSecret())
	p := state.Principal{
		ID: in.ID, Kind: state.IdentityKind(in.Kind), Roles: rolesOf(in.Roles), AllRoles: in.AllRoles,
		SecretHash: pki.HashSecret(token), Expires: h.Now().Add(ttl),
	}
	if _, err := h.propose(r.Context(), state.Command{PutPrincipal: &p}); err != nil {
		return err
	}
	doc, err := h.principal(r, in.ID)
	if err != nil {
		return err
	}
	line := h.b.Join(pki.Kind(p.Kind))
	doc.Token, doc.Servers, doc.Pin = token, line.Addrs, line.Pin
	return answer(w, http.StatusCreated, doc)
}

func invalid(err error) error { return client.NewProblem(client.CodeInvalid, "", "%v", err) }

// rolesOf makes roles of names, in order and each once.
func rolesOf(names []string) []fleet.Role {
	var roles []fleet.Role
	for _, n := range names {
		roles = append(roles, fleet.Role(n))
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

func (h *handler) principal(r *http.Request, id string) (doc client.Principal, err error) {
	known, now := false, h.Now()
	err = h.b.Read(r.Context(), func(st *state.State) {
		if p := st.Principals[id]; p != nil {
			doc, known = principalDoc(now, p), true
		}
	})
	if err == nil && !known {
		err = notFound("principal", id, "tender principal list")
	}
	return doc, err
}

func (h *handler) listPrincipals(w http.ResponseWriter, r *http.Request) error {
	list, now := client.PrincipalList{Principals: []client.Principal{}}, h.Now()
	err := h.b.Read(r.Context(), func(st *state.State) {
		for _, id := range state.SortedKeys(st.Principals) {
			list.Principals = append(list.Principals, principalDoc(now, st.Principals[id]))
		}
	})
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list)
}

func (h *handler) revokePrincipal(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	var who pki.Identity
	err := h.b.Read(r.Context(), func(st *state.State) {
		if p := st.Principals[id]; p != nil {
			who = pki.Identity{TrustDomain: st.TrustDomain, Kind: pki.Kind(p.Kind), ID: id}
		}
	})
	switch {
	case err != nil:
		return err
	case who.ID == "":
		return notFound("principal", id, "tender principal list")
	}
	c := state.Command{Revoke: &state.Revoke{URI: who.String(), Kind: state.IdentityKind(who.Kind), ID: id}}
	if _, err := h.propose(r.Context(), c); err != nil {
		return err
	}
	doc, err := h.principal(r, id)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, doc)
}

func (h *handler) whoami(w http.ResponseWriter, r *http.Request) error {
	who := access.From(r.Context())
	return answer(w, http.StatusOK, client.Whoami{Principal: who.String(), Roles: roleNames(who.Roles), AllRoles: who.AllRoles})
}

func principalDoc(now time.Time, p *state.Principal) client.Principal {
	d := client.Principal{
		ID: p.ID, Kind: string(p.Kind), Roles: roleNames(p.Roles), AllRoles: p.AllRoles, HasToken: p.SecretHash != "",
		State: client.PrincipalActive, Created: utc(p.Created), Expires: utc(p.Expires),
		CertNotAfter: utc(p.CertNotAfter), Revoked: utc(p.Revoked),
	}
	if d.Expires.IsZero() {
		d.Expires = d.CertNotAfter
	}
	switch end := p.Ended(now); {
	case !p.Revoked.IsZero():
		d.State = client.PrincipalRevoked
	case !end.IsZero():
		d.State = client.PrincipalExpired
	}
	return d
}

const (
	defaultAudit = 100
	maxAudit     = 2 * state.MaxAudit
)

func (h *handler) listAudit(w http.ResponseWriter, r *http.Request) error {
	p := readParams(r, "limit", "by")
	limit, by := p.number("limit", defaultAudit, 1, maxAudit), p.text("by")
	if p.err != nil {
		return p.err
	}
	wanted := func(e state.AuditEntry) bool {
		return by == "" || e.By == by || strings.HasPrefix(e.By, by+"/")
	}
	var entries []state.AuditEntry
	list := client.AuditList{Entries: []client.AuditEntry{}}
	err := h.b.Read(r.Context(), func(st *state.State) {
		entries, list.Omitted = st.Audit.Last(limit, wanted)
	})
	if err != nil {
		return err
	}
	for _, e := range entries {
		list.Entries = append(list.Entries, client.AuditEntry{
			Seq: e.Seq, Time: utc(e.Time), By: e.By, Action: e.Action, Target: e.Target, Detail: e.Detail, Refused: e.Refused,
		})
	}
	return answer(w, http.StatusOK, list)
}
