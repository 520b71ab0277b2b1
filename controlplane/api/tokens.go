package api

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// What a join token may be. One that lives long or admits many is a password
// that lies about.
const (
	defaultTTL = time.Hour
	maxTTL     = 90 * 24 * time.Hour
	maxUses    = 10_000
	// minTokenID is the least of an id that names a token.
	minTokenID = 6
)

func (h *handler) createToken(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.CreateToken](w, r, true)
	if err != nil {
		return err
	}
	tok, err := token(in)
	if err != nil {
		return client.NewProblem(client.CodeInvalid, "", "%v", err)
	}
	line := h.b.Join(pki.Kind(tok.Kind))
	line.Kind, line.Secret = pki.Kind(tok.Kind), pki.NewSecret()
	line.Expires = h.Now().Add(cmp.Or(time.Duration(in.TTL), defaultTTL))
	tok.Hash, tok.Expires, tok.Created = pki.HashSecret(line.Secret), line.Expires, h.Now()
	if err := line.Check(); err != nil {
		return err // the replica has no address to put into it
	}
	if _, err := h.propose(r.Context(), state.Command{PutToken: &tok}); err != nil {
		return err
	}
	doc := tokenDoc(&tok)
	doc.Line = line.String()
	return answer(w, http.StatusCreated, doc)
}

// token checks a document and makes the policy of it.
func token(in client.CreateToken) (state.Token, error) {
	t := state.Token{
		Kind: state.IdentityKind(cmp.Or(in.Kind, string(state.KindAgent))), Site: fleet.Site(in.Site),
		Labels: in.Labels, Uses: cmp.Or(in.Uses, 1), Roles: rolesOf(in.Roles), AllRoles: in.AllRoles,
	}
	if !pki.Kind(t.Kind).Valid() {
		return t, errors.New("kind: write agent, replica, operator, framework or reader")
	}
	if t.Kind != state.KindAgent && (in.Site != "" || len(in.Labels) > 0) {
		return t, errors.New("a site and labels are for agents")
	}
	if err := state.CheckRoles(t.Kind, t.Roles, t.AllRoles); err != nil {
		return t, err
	}
	if t.Uses < 1 || t.Uses > maxUses {
		return t, errors.New("uses: write 1 to 10000")
	}
	if in.TTL < 0 || time.Duration(in.TTL) > maxTTL {
		return t, errors.New("ttl: write a duration up to 2160h (90 days)")
	}
	if in.Site != "" {
		if err := fleet.CheckID("site", in.Site); err != nil {
			return t, err
		}
	}
	return t, fleet.CheckLabels(in.Labels)
}

func (h *handler) listTokens(w http.ResponseWriter, r *http.Request) error {
	list := client.TokenList{Tokens: []client.Token{}}
	err := h.b.Read(r.Context(), func(st *state.State) {
		for _, hash := range state.SortedKeys(st.Tokens) {
			list.Tokens = append(list.Tokens, tokenDoc(st.Tokens[hash]))
		}
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(list.Tokens, func(a, b client.Token) int { return a.Created.Compare(b.Created) })
	return answer(w, http.StatusOK, list)
}

func (h *handler) deleteToken(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if len(id) < minTokenID {
		return badRequest("give at least %d digits of the token's id", minTokenID)
	}
	var found []string
	err := h.b.Read(r.Context(), func(st *state.State) {
		for hash := range st.Tokens {
			if strings.HasPrefix(hash, id) {
				found = append(found, hash)
			}
		}
	})
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return notFound("join token", id, "tender token list")
	case len(found) > 1:
		return client.NewProblem(client.CodeConflict, "give more digits of its id", "%d join tokens begin with %s", len(found), id)
	}
	if _, err := h.propose(r.Context(), state.Command{DropToken: &state.DropToken{Hash: found[0]}}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
