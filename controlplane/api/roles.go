package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// maxQuotas bounds the roles of one request.
const maxQuotas = 1000

func (h *handler) listRoles(w http.ResponseWriter, r *http.Request) error {
	roles, err := h.roles(r.Context())
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, client.RoleList{Roles: roles})
}

// roles are those that the asker may use, each before the ones below it.
func (h *handler) roles(ctx context.Context) ([]client.Role, error) {
	var views []leader.RoleView
	if err := h.b.Ask(ctx, func(l *leader.Leader) { views = l.Roles() }); err != nil {
		return nil, err
	}
	seen := map[fleet.Role]leader.RoleView{}
	for _, v := range views {
		seen[v.Role] = v
	}
	who, roles := access.From(ctx), []client.Role{}
	err := h.b.Read(ctx, func(st *state.State) {
		for r := range st.Roles {
			if _, known := seen[r]; !known {
				seen[r] = leader.RoleView{}
			}
		}
		for r, v := range seen {
			if who.MayUse(r) {
				roles = append(roles, roleDoc(r, st, v))
			}
		}
	})
	slices.SortFunc(roles, func(x, y client.Role) int {
		return slices.Compare(strings.Split(x.Role, "/"), strings.Split(y.Role, "/"))
	})
	return roles, err
}

func hasQuota(q fleet.Quota) bool { return len(q.Guarantee)+len(q.Limit) > 0 }

func roleDoc(r fleet.Role, st *state.State, v leader.RoleView) client.Role {
	d := client.Role{
		Role: string(r), Weight: client.AmountOf(st.Weight(r)), Share: client.AmountOf(v.Share), Dominant: v.Dominant,
		Consumed: quantitiesDoc(v.Consumed), Offered: quantitiesDoc(v.Offered), Frameworks: []string{},
	}
	if rec := st.Roles[r]; rec != nil {
		d.Guarantee, d.Limit = quantitiesDoc(rec.Quota.Guarantee), quantitiesDoc(rec.Quota.Limit)
	}
	for _, f := range v.Frameworks {
		d.Frameworks = append(d.Frameworks, string(f))
	}
	return d
}

func quantitiesDoc(q fleet.Quantities) client.Quantities {
	out := client.Quantities{}
	for _, a := range q {
		out[a.Name] = client.AmountOf(a.Amount)
	}
	return out
}

// answerRoles answers with some roles as they are now.
func (h *handler) answerRoles(ctx context.Context, names ...fleet.Role) ([]client.Role, error) {
	all, err := h.roles(ctx)
	if err != nil {
		return nil, err
	}
	roles := []client.Role{}
	for _, d := range all {
		if slices.Contains(names, fleet.Role(d.Role)) {
			roles = append(roles, d)
		}
	}
	return roles, nil
}

// putRole sets a role's weight. The role is a path, so the word after it cannot
// be told from its last level by the pattern of the route.
func (h *handler) putRole(w http.ResponseWriter, r *http.Request) error {
	name, ok := strings.CutSuffix(r.PathValue("role"), "/weight")
	if !ok {
		return client.NewProblem(client.CodeNotFound, "write PUT /v1/roles/ROLE/weight", "there is no PUT %s in this API", r.URL.Path)
	}
	role := fleet.Role(name)
	in, err := body[client.SetWeight](w, r, false)
	if err != nil {
		return err
	}
	if err := fleet.CheckRole(role); err != nil {
		return invalid(err)
	}
	weight, err := in.Weight.Scalar()
	if err != nil || in.Weight == "" {
		return invalid(fmt.Errorf("weight %.40q: write a number such as 2 or 0.5", string(in.Weight)))
	}
	if _, err := h.propose(r.Context(), state.Command{SetRole: &state.SetRole{Role: role, Weight: weight}}); err != nil {
		return err
	}
	docs, err := h.answerRoles(r.Context(), role)
	if err != nil {
		return err
	}
	if len(docs) == 0 { // a weight of 1 is nothing to remember
		docs = []client.Role{{Role: name, Weight: client.AmountOf(weight), Consumed: client.Quantities{}, Offered: client.Quantities{}, Share: "0", Frameworks: []string{}}}
	}
	return answer(w, http.StatusOK, docs[0])
}

func (h *handler) setQuota(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.SetQuota](w, r, false)
	if err != nil {
		return err
	}
	c := state.SetQuota{Force: in.Force}
	if len(in.Quotas) == 0 || len(in.Quotas) > maxQuotas {
		return invalid(fmt.Errorf("%d quotas: give 1 to %d", len(in.Quotas), maxQuotas))
	}
	var names []fleet.Role
	for _, q := range in.Quotas {
		rq, err := quotaOf(q)
		if err != nil {
			return invalid(fmt.Errorf("quota of role %.80q: %w", q.Role, err))
		}
		if slices.Contains(names, rq.Role) {
			return invalid(fmt.Errorf("role %s is named twice", rq.Role))
		}
		names = append(names, rq.Role)
		c.Quotas = append(c.Quotas, rq)
	}
	if !in.Force {
		if err := h.checkNames(r.Context(), c.Quotas); err != nil {
			return err
		}
	}
	if _, err := h.propose(r.Context(), state.Command{SetQuota: &c}); err != nil {
		return err
	}
	docs, err := h.answerRoles(r.Context(), names...)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, client.RoleList{Roles: docs})
}

func quotaOf(q client.Quota) (state.RoleQuota, error) {
	out := state.RoleQuota{Role: fleet.Role(q.Role)}
	if err := fleet.CheckRole(out.Role); err != nil {
		return out, err
	}
	var err error
	if out.Quota.Guarantee, err = quantitiesOf(q.Guarantee); err != nil {
		return out, fmt.Errorf("guarantee: %w", err)
	}
	if out.Quota.Limit, err = quantitiesOf(q.Limit); err != nil {
		return out, fmt.Errorf("limit: %w", err)
	}
	if !hasQuota(out.Quota) {
		return out, errors.New("neither a guarantee nor a limit is given; to end a role's quota: tender quota clear")
	}
	return out, fleet.CheckQuota(out.Quota)
}

// quantitiesOf reads amounts by name, in order.
func quantitiesOf(in client.Quantities) (fleet.Quantities, error) {
	var out fleet.Quantities
	for _, name := range state.SortedKeys(in) {
		text := string(in[name])
		read := fleet.ParseScalar
		if name == "mem" || name == "disk" {
			read = client.ParseMem
		}
		if text == "" {
			return nil, fmt.Errorf("%.40q has no amount", name)
		}
		n, err := read(text)
		if err != nil {
			return nil, fmt.Errorf("%.40s: %w", name, err)
		}
		out = append(out, fleet.Amount{Name: name, Amount: n})
	}
	return out, nil
}

// standard are the resources that every fleet counts.
func standard() []string { return []string{"cpus", "disk", "gpus", "mem"} }

// checkNames refuses names that no agent has: a limit on "cpu" would hold
// nobody back, and nothing would say so.
func (h *handler) checkNames(ctx context.Context, quotas []state.RoleQuota) error {
	known := standard()
	err := h.b.Read(ctx, func(st *state.State) {
		for _, a := range st.Agents {
			for _, c := range a.Capacity.Total.Total().Custom {
				known = append(known, c.Name)
			}
		}
	})
	if err != nil {
		return err
	}
	slices.Sort(known)
	known = slices.Compact(known)
	for _, q := range quotas {
		for _, a := range slices.Concat(q.Quota.Guarantee, q.Quota.Limit) {
			if !slices.Contains(known, a.Name) {
				return client.NewProblem(client.CodeInvalid, "correct the name, or force it for agents that are yet to come",
					"quota of role %s: no agent has a resource %q; known are %s", q.Role, a.Name, strings.Join(known, ", "))
			}
		}
	}
	return nil
}

func (h *handler) clearQuota(w http.ResponseWriter, r *http.Request) error {
	role := fleet.Role(r.PathValue("role"))
	has := false
	err := h.b.Read(r.Context(), func(st *state.State) {
		rec := st.Roles[role]
		has = rec != nil && hasQuota(rec.Quota)
	})
	switch {
	case err != nil:
		return err
	case !has:
		return client.NewProblem(client.CodeNotFound, "list them with: tender quota list", "role %.80q has no quota", string(role))
	}
	c := state.SetQuota{Quotas: []state.RoleQuota{{Role: role}}, Force: true} // less is guaranteed, never more
	if _, err := h.propose(r.Context(), state.Command{SetQuota: &c}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
