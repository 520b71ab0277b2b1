package api_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func names(roles []client.Role) (out []string) {
	for _, r := range roles {
		out = append(out, r.Role)
	}
	return out
}

func TestRolesAreATree(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	for _, r := range []string{"a-b", "a/c", "b/c/d", "a/b"} {
		if got, err := c.SetWeight(t.Context(), r, "2"); err != nil || got.Role != r || got.Weight != "2" || got.Frameworks == nil {
			t.Errorf("%s: %+v, %v", r, got, err)
		}
	}
	f.Register(apitest.Info("m", "b/c/d"))
	roles, err := c.Roles(t.Context())
	// The run framework acts in no role yet; those above m's role are there.
	if want := []string{"a", "a/b", "a/c", "a-b", "b", "b/c", "b/c/d"}; err != nil || !slices.Equal(names(roles), want[1:]) {
		t.Errorf("roles %v, %v", names(roles), err)
	}
	last := roles[len(roles)-1]
	want := client.Role{
		Role: "b/c/d", Weight: "2", Share: "100", Dominant: "cpus", Frameworks: []string{"m"},
		Consumed: client.Quantities{}, Offered: client.Quantities{"cpus": "8", "mem": "16384", "disk": "100000"},
	}
	if d := cmp.Diff(want, last); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// What is refused changes nothing, not even in part.
func TestQuotaIsAllOrNothing(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384, device(1)), fleet.Agent{})
	limit := func(role, name string, n client.Amount) client.Quota {
		return client.Quota{Role: role, Limit: client.Quantities{name: n}}
	}
	guarantee := func(role, name string, n client.Amount) client.Quota {
		return client.Quota{Role: role, Guarantee: client.Quantities{name: n}}
	}
	if _, err := c.SetQuota(t.Context(), client.SetQuota{Quotas: []client.Quota{
		{Role: "a", Guarantee: client.Quantities{"mem": "1.5G"}, Limit: client.Quantities{"cpus": "4", "gpus": "1"}},
		limit("a/b", "cpus", "2"),
	}}); err != nil {
		t.Fatal(err)
	}
	before, _ := c.Roles(t.Context())
	if before[0].Guarantee["mem"] != "1536" || before[1].Limit["cpus"] != "2" {
		t.Errorf("set: %+v", before)
	}
	fine := limit("w", "cpus", "1")
	for _, tt := range []struct {
		bad    client.Quota
		code   client.Code
		detail string
	}{
		{guarantee("z/a", "cpus", "9"), client.CodeConflict, "the roles are guaranteed 9 cpus together, and the fleet has 8"},
		{limit("a/c", "cpus", "4.001"), client.CodeInvalid, "is above that of its parent a, 4"},
		{limit("a", "cpus", "1"), client.CodeInvalid, "the limit of role a/b, 2 cpus, is above that of its parent a, 1"},
		{guarantee("a/c", "cpus", "5"), client.CodeInvalid, "role a and those below it are guaranteed 5 cpus, and it is limited to 4"},
		{limit("y", "gpus", "0.5"), client.CodeInvalid, "only whole ones exist"},
		{limit("y", "cpus", "0.0001"), client.CodeInvalid, "use one to three decimals"},
		{limit("y", "cpus", "-1"), client.CodeInvalid, "is not a number of zero or more"},
		{limit("y", "cpus", "99999999999999999"), client.CodeInvalid, "is too large"},
		{limit("y", "cpu", "1"), client.CodeInvalid, `no agent has a resource "cpu"; known are cpus, disk, gpus, mem`},
		{limit("y", "CPUs", "1"), client.CodeInvalid, "use lower-case letters"},
		{limit("y", "ports", "1"), client.CodeInvalid, "is no custom resource"},
		{limit("*", "cpus", "1"), client.CodeInvalid, "has no quota"},
		{limit("A", "cpus", "1"), client.CodeInvalid, "use lower-case letters"},
		{limit("", "cpus", "1"), client.CodeInvalid, "role is empty"},
		{limit("w", "cpus", "1"), client.CodeInvalid, "role w is named twice"},
		{client.Quota{Role: "y"}, client.CodeInvalid, "neither a guarantee nor a limit"},
	} {
		_, err := c.SetQuota(t.Context(), client.SetQuota{Quotas: []client.Quota{fine, tt.bad}})
		p := problem(t, err)
		if p.Code != tt.code || !strings.Contains(p.Detail, tt.detail) {
			t.Errorf("%+v: %+v", tt.bad, p)
		}
		if after, _ := c.Roles(t.Context()); !cmp.Equal(before, after) {
			t.Fatalf("%+v: a refusal changed something:\n%s", tt.bad, cmp.Diff(before, after))
		}
	}
	if p := problem(t, second(c.SetQuota(t.Context(), client.SetQuota{}))); p.Code != client.CodeInvalid {
		t.Errorf("none: %+v", p)
	}
	// Force leaves out what depends on the agents of the day, and nothing else.
	if _, err := c.SetQuota(t.Context(), client.SetQuota{Force: true, Quotas: []client.Quota{guarantee("z", "fpgas", "9")}}); err != nil {
		t.Error(err)
	}
	if p := problem(t, second(c.SetQuota(t.Context(), client.SetQuota{Force: true, Quotas: []client.Quota{limit("a/c", "cpus", "5")}}))); p.Code != client.CodeInvalid {
		t.Errorf("forced: %+v", p)
	}
	if err := c.ClearQuota(t.Context(), "a/b"); err != nil {
		t.Error(err)
	}
	if p := problem(t, c.ClearQuota(t.Context(), "a/b")); p.Code != client.CodeNotFound || p.Next == "" {
		t.Errorf("cleared twice: %+v", p)
	}
}

// What no client of ours sends.
func TestDocumentsOfOperators(t *testing.T) {
	d := newDoors(t, nil)
	d.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	for _, tt := range []struct {
		method, path, doc string
		status            int
		text              string
	}{
		{"PUT", "/v1/quota", `{"quotas":[{"role":"a","limit":{"cpus":""}}]}`, 422, `\"cpus\" has no amount`},
		{"PUT", "/v1/quota", `{"quotas":[{"role":"a","limits":{"cpus":1}}]}`, 400, "unknown field"},
		{"PUT", "/v1/quota", ``, 400, "cannot be read"},
		{"PUT", "/v1/roles/a", `{"weight":1}`, 404, "PUT /v1/roles/ROLE/weight"},
		{"PUT", "/v1/roles/weight", `{"weight":1}`, 404, "PUT /v1/roles/ROLE/weight"},
		{"PUT", "/v1/roles/a/weight/weight", `{"weight":1}`, 200, `"role":"a/weight"`},
		{"PUT", "/v1/roles/a%2Fb/weight", `{"weight":"2.5"}`, 200, `"role":"a/b"`},
		{"PUT", "/v1/roles/a/weight", `{}`, 422, "write a number"},
		{"DELETE", "/v1/quota/a", "", 404, "has no quota"},
		{"POST", "/v1/agents/a1/drain", `{"grace":"1s"}`, 400, "unknown field"},
		{"POST", "/v1/agents/a1/reserve", ``, 400, "cannot be read"},
		{"POST", "/v1/maintenance", `{"agents":["a1"],"start":"tomorrow"}`, 400, "cannot be read"},
		{"GET", "/v1/frameworks?everything=1", "", 400, "unknown parameter"},
		{"GET", "/v1/agents/a1?wait=soon", "", 400, "write a duration"},
	} {
		if w := d.askLocal(tt.method, tt.path, tt.doc); w.Code != tt.status || !strings.Contains(w.Body.String(), tt.text) {
			t.Errorf("%s %s %s: %d %s", tt.method, tt.path, tt.doc, w.Code, w.Body)
		}
	}
}

// A limit takes back what is on offer beyond it, and keeps what is in use.
func TestLimitRescindsOffers(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	f.Register(apitest.Info("m", "a"))
	if err := f.Launch("m", "t1", "wait"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SetQuota(t.Context(), client.SetQuota{Quotas: []client.Quota{{Role: "a", Limit: client.Quantities{"cpus": "1"}}}}); err != nil {
		t.Fatal(err)
	}
	list, err := c.Offers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list.Offers {
		if o.Resources.CPUs != "0" {
			t.Errorf("still on offer: %+v", o)
		}
	}
	if f.State("t1") != fleet.TaskRunning {
		t.Errorf("t1 is %v", f.State("t1"))
	}
}

// Whoever waits for a drain is answered at each change, and at its end.
func TestDrainIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := apitest.New()
		h := api.Handler(f, f.Options())
		d := &doors{Fleet: f, local: h}
		f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
		f.Register(apitest.Info("m", "a"))
		if err := f.Launch("m", "t1", "hold"); err != nil {
			t.Fatal(err)
		}
		g := agentOf(t, d, "POST", "/v1/agents/a1/drain", `{"max_grace":"5s"}`)
		if g.Availability != client.AgentDraining || g.Drain.TasksLeft != 1 || g.Drain.MaxGrace != client.Duration(5*time.Second) {
			t.Fatalf("draining: %+v", g.Drain)
		}
		answered := make(chan client.Agent)
		wait := func(after string) {
			go func() { answered <- agentOf(t, d, "GET", "/v1/agents/a1?wait=30s&after="+after, "") }()
			synctest.Wait()
		}
		began := time.Now()
		wait(g.Drain.Revision)
		select {
		case g := <-answered:
			t.Fatalf("answered at once: %+v", g.Drain)
		default:
		}
		f.Finish("t1", 0)
		if g = <-answered; g.Drain.TasksLeft != 0 || g.Drain.UpdatesLeft != 1 || !g.Drain.Done.IsZero() {
			t.Errorf("after its end: %+v", g.Drain)
		}
		wait(g.Drain.Revision)
		f.Acknowledge("m")
		if g = <-answered; g.Drain.Done.IsZero() || g.Availability != client.AgentDrained {
			t.Errorf("when all is acknowledged: %+v", g)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestOperatorsWordsAboutAgents(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	for _, bad := range []client.Duration{-1, 0, client.Duration(25 * time.Hour)} {
		if p := problem(t, second(c.DrainAgent(t.Context(), "a1", client.StartDrain{MaxGrace: &bad}))); p.Code != client.CodeInvalid {
			t.Errorf("grace %v: %+v", bad, p)
		}
	}
	for name, err := range map[string]error{
		"drain":      second(c.DrainAgent(t.Context(), "nobody", client.StartDrain{})),
		"deactivate": second(c.DeactivateAgent(t.Context(), "nobody")),
		"reactivate": second(c.ReactivateAgent(t.Context(), "nobody")),
		"gone":       second(c.MarkAgentGone(t.Context(), "nobody")),
		"reserve":    second(c.Reserve(t.Context(), "nobody", client.Reserve{Role: "a", Resources: client.Quantities{"cpus": "1"}})),
		"a bad id":   second(c.MarkAgentGone(t.Context(), "No/body")),
	} {
		if p := problem(t, err); p.Code != client.CodeNotFound {
			t.Errorf("%s: %+v", name, p)
		}
	}
	g, err := c.DeactivateAgent(t.Context(), "a1")
	if err != nil || g.Availability != client.AgentDeactivated || g.State != client.AgentConnected {
		t.Errorf("deactivated: %+v, %v", g, err)
	}
	if g, err = c.ReactivateAgent(t.Context(), "a1"); err != nil || g.Availability != client.AgentActive {
		t.Errorf("reactivated: %+v, %v", g, err)
	}
	if g, err = c.MarkAgentGone(t.Context(), "a1"); err != nil || g.State != client.AgentGone || g.Availability != "" {
		t.Errorf("gone: %+v, %v", g, err)
	}
	if p := problem(t, second(c.ReactivateAgent(t.Context(), "a1"))); p.Code != client.CodeNotFound {
		t.Errorf("after gone: %+v", p)
	}
}

// Offers make room for an operator's reservation; tasks do not.
func TestReservations(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(4, 4096, device(1), device(2)), fleet.Agent{})
	f.Register(apitest.Info("m", "b"))
	if err := f.Launch("m", "t1", "wait"); err != nil {
		t.Fatal(err)
	}
	want := func(q client.Quantities, gpus ...string) client.Reserve {
		return client.Reserve{Role: "a", Resources: q, GPUUUIDs: gpus}
	}
	p := problem(t, second(c.Reserve(t.Context(), "a1", want(client.Quantities{"cpus": "3.5"}))))
	if p.Code != client.CodeConflict || !strings.Contains(p.Detail, "neither reserved nor used by tasks are cpus:3;mem:4096;disk:100000;gpus:[GPU-1,GPU-2]") {
		t.Errorf("too much: %+v", p)
	}
	if list, err := c.Offers(t.Context()); err != nil || len(list.Offers) != 1 {
		t.Errorf("a refusal took offers back: %+v, %v", list, err)
	}
	g, err := c.Reserve(t.Context(), "a1", want(client.Quantities{"cpus": "3", "mem": "2G", "gpus": "1"}, "GPU-2"))
	if err != nil {
		t.Fatal(err)
	}
	reserved := []client.Reserved{{
		Role: "a", Dynamic: true, Principal: "local/r1",
		Resources: client.Resources{CPUs: "3", Mem: "2048", Disk: "0", GPUs: []string{"GPU-1", "GPU-2"}},
	}}
	if d := cmp.Diff(reserved, g.Total.Reserved); d != "" || g.Total.CPUs != "4" || g.Used.CPUs != "1" {
		t.Errorf("reserved (-want +got)\n%s%+v", d, g)
	}
	// The framework in another role has nothing of it on offer.
	list, err := c.Offers(t.Context())
	if err != nil || len(list.Offers) != 1 || list.Offers[0].Resources.CPUs != "0" || list.Offers[0].Resources.Mem != "2048" || len(list.Offers[0].GPUs) != 0 {
		t.Errorf("offers: %+v, %v", list.Offers, err)
	}
	p = problem(t, second(c.Unreserve(t.Context(), "a1", want(client.Quantities{"cpus": "4"}))))
	if p.Code != client.CodeConflict || !strings.Contains(p.Detail, "cannot give back cpus:4") {
		t.Errorf("give back too much: %+v", p)
	}
	if g, err = c.Unreserve(t.Context(), "a1", want(client.Quantities{"cpus": "3", "mem": "2G", "gpus": "2"})); err != nil || len(g.Total.Reserved) != 0 {
		t.Errorf("given back: %+v, %v", g.Total, err)
	}
	for _, bad := range []client.Reserve{
		{Resources: client.Quantities{"cpus": "1"}},
		{Role: "a"},
		{Role: "*", Resources: client.Quantities{"cpus": "1"}},
		{Role: "A", Resources: client.Quantities{"cpus": "1"}},
		{Role: "a", Resources: client.Quantities{"cpus": "-1"}},
		{Role: "a", Resources: client.Quantities{"gpus": "0.5"}},
		{Role: "a", Resources: client.Quantities{"No Such": "1"}},
	} {
		if p := problem(t, second(c.Reserve(t.Context(), "a1", bad))); p.Code != client.CodeInvalid {
			t.Errorf("%+v: %+v", bad, p)
		}
	}
	f.Stale(func(st *state.State) {
		log, _ := st.Audit.Last(2, func(e state.AuditEntry) bool { return e.Action == "agent.reserve" })
		if len(log) != 2 || log[0].By != "local/r1" || log[0].Target != "agent/a1" {
			t.Errorf("audit: %+v", log)
		}
	})
}

func TestMaintenanceWindows(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	f.AddAgent("a2", apitest.Capacity(8, 16384), fleet.Agent{})
	f.Register(apitest.Info("m", "a"))
	start := apitest.Epoch.Add(time.Hour)
	set := func(agents ...string) client.SetMaintenance {
		return client.SetMaintenance{Agents: agents, Start: start, Duration: client.Duration(time.Hour)}
	}
	for _, tt := range []struct {
		bad  client.SetMaintenance
		code client.Code
	}{
		{set(), client.CodeInvalid},
		{set("a1", "nobody"), client.CodeNotFound},
		{client.SetMaintenance{Agents: []string{"a1"}}, client.CodeInvalid},
		{client.SetMaintenance{Agents: []string{"a1"}, Start: start, Duration: -1}, client.CodeInvalid},
		{client.SetMaintenance{Agents: []string{"a1"}, Start: apitest.Epoch.Add(-time.Hour), Duration: client.Duration(time.Hour)}, client.CodeInvalid},
	} {
		if p := problem(t, second(c.SetMaintenance(t.Context(), tt.bad))); p.Code != tt.code {
			t.Errorf("%+v: %+v", tt.bad, p)
		}
	}
	if list, err := c.Maintenance(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("after refusals: %+v, %v", list, err)
	}
	if _, err := c.SetMaintenance(t.Context(), set("a1")); err != nil {
		t.Fatal(err)
	}
	list, err := c.SetMaintenance(t.Context(), client.SetMaintenance{Agents: []string{"a2"}, Start: apitest.Epoch})
	want := []client.Window{{Agent: "a2", Start: apitest.Epoch, Now: true}, {Agent: "a1", Start: start, Duration: client.Duration(time.Hour)}}
	if d := cmp.Diff(want, list); d != "" || err != nil {
		t.Errorf("(-want +got)\n%s%v", d, err)
	}
	offers, err := c.Offers(t.Context())
	if err != nil || len(offers.Inverse) != 2 || offers.Inverse[0].Agent != "a1" || offers.Inverse[0].Resources.CPUs != "8" || !offers.Inverse[0].Start.Equal(start) {
		t.Errorf("inverse offers: %+v, %v", offers.Inverse, err)
	}
	if list, err = c.ClearMaintenance(t.Context(), []string{"a1", "a2"}); err != nil || len(list) != 0 {
		t.Errorf("cleared: %+v, %v", list, err)
	}
	if offers, err = c.Offers(t.Context()); err != nil || len(offers.Inverse) != 0 {
		t.Errorf("inverse offers of windows that were taken back: %+v, %v", offers.Inverse, err)
	}
}

func TestFrameworks(t *testing.T) {
	f, c := newFleet(t)
	f.AddAgent("a1", apitest.Capacity(8, 16384), fleet.Agent{})
	f.Advance(time.Minute)
	f.Register(apitest.Info("m", "a", "b"), "b")
	if err := f.Launch("m", "t1", "wait"); err != nil {
		t.Fatal(err)
	}
	got, err := c.Framework(t.Context(), "m")
	want := client.Framework{
		ID: "m", Name: "scheduler of m", Principal: "m", State: client.FrameworkConnected, Roles: []string{"a", "b"}, Suppressed: []string{"b"},
		Capabilities: []string{"GPU_RESOURCES", "RESERVATION_REFINEMENT", "PARTITION_AWARE"},
		Registered:   apitest.Epoch.Add(time.Minute), Since: apitest.Epoch.Add(time.Minute), Failover: client.Duration(fleet.DefaultFailoverTimeout),
		Offers: 1, Tasks: map[string]int{"TASK_RUNNING": 1},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("(-want +got)\n%s%v", d, err)
	}
	f.Leave("m")
	f.Advance(24 * time.Hour)
	got, err = c.Framework(t.Context(), "m")
	if err != nil || got.State != client.FrameworkDisconnected || got.Offers != 0 || got.FailoverLeft == nil || *got.FailoverLeft != client.Duration(6*24*time.Hour) {
		t.Errorf("away: %+v, %v", got, err)
	}
	if got, err = c.TeardownFramework(t.Context(), "m"); err != nil || got.State != client.FrameworkTornDown {
		t.Errorf("torn down: %+v, %v", got, err)
	}
	if f.State("t1") != fleet.TaskKilled {
		t.Errorf("t1 is %v", f.State("t1"))
	}
	all, err := c.Frameworks(t.Context(), true)
	live, err2 := c.Frameworks(t.Context(), false)
	if err != nil || err2 != nil || len(all) != 2 || len(live) != 1 || live[0].ID != "run" || !live[0].BuiltIn {
		t.Errorf("listed %+v and %+v: %v, %v", all, live, err, err2)
	}
	if p := problem(t, second(c.TeardownFramework(t.Context(), "run"))); p.Code != client.CodeConflict {
		t.Errorf("teardown of run: %+v", p)
	}
	if p := problem(t, second(c.TeardownFramework(t.Context(), "nobody"))); p.Code != client.CodeNotFound {
		t.Errorf("teardown of nobody: %+v", p)
	}
}

// The answer for a large fleet is as small as that for a small one.
func TestWhyFrameworkIsBounded(t *testing.T) {
	f, c := newFleet(t)
	for i := range 50 {
		f.AddAgent(fleet.AgentID(fmt.Sprintf("a%02d", i)), apitest.Capacity(1, 1024), fleet.Agent{})
	}
	f.Register(apitest.Info("m", "a"))
	f.Decline("m", time.Hour)
	y, err := c.WhyFramework(t.Context(), "m")
	if err != nil || len(y.Roles) != 1 || len(y.Roles[0].Obstacles) != 1 {
		t.Fatalf("%+v, %v", y, err)
	}
	o := y.Roles[0].Obstacles[0]
	if o.Count != 50 || len(o.Agents) != 10 || o.Agents[0] != "a00" || o.Reason != "the framework declined what is free" || !o.Until.Equal(apitest.Epoch.Add(time.Hour)) {
		t.Errorf("%+v", o)
	}
	many := apitest.Info("n")
	for i := range 40 {
		many.Roles = append(many.Roles[:i:i], fleet.Role(fmt.Sprintf("r%02d", i)))
	}
	f.Register(many)
	if y, err = c.WhyFramework(t.Context(), "n"); err != nil || len(y.Roles) != 16 || y.OmittedRoles != 24 {
		t.Errorf("of 40 roles %d are explained and %d omitted, %v", len(y.Roles), y.OmittedRoles, err)
	}
	if p := problem(t, second(c.WhyFramework(t.Context(), "nobody"))); p.Code != client.CodeNotFound {
		t.Errorf("nobody: %+v", p)
	}
}

// agentOf asks over the socket and reads an agent.
func agentOf(t *testing.T, d *doors, method, path, doc string) (g client.Agent) {
	t.Helper()
	w := d.askLocal(method, path, doc)
	if w.Code != http.StatusOK {
		t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	unmarshal(t, w.Body.Bytes(), &g)
	return g
}
