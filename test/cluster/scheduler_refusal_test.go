package cluster_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// A request that comes to nothing is answered with Mesos's status, in Mesos's
// order.
func TestSchedulerRequestsAreRefused(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		w := f.Web("")
		f.Up(1)
		s := cluster.NewScheduler(t, w.Client(f), "https://"+f.Leader().Addr, f.Principal("batch", "batch"))
		other := f.Principal("other", "batch")
		reader := f.Principal("board", "batch")
		f.Leader().Stale(func(st *state.State) { st.Principals["board"].Kind = state.KindReader })
		s.Subscribe(cluster.Framework("batch"))
		s.Subscribed()
		away := cluster.NewScheduler(t, s.HTTP, "https://"+f.Leader().Addr, s.Token)
		away.Subscribe(cluster.Framework("batch"))
		away.Subscribed()
		away.Disconnect()

		const subscribe = `{"type": "SUBSCRIBE", "subscribe": {"framework_info": {"user": "u", "name": "n", "role": "batch"}}}`
		revive := func(id string) string { return `{"type": "REVIVE", "framework_id": {"value": "` + id + `"}}` }
		type header = http.Header
		for _, tt := range []struct {
			name, method, body string
			header             header
			status             int
			says               string
		}{
			{"nobody", "POST", subscribe, header{"Authorization": nil}, 401, "neither a client certificate nor a token"},
			{"a wrong token", "POST", subscribe, header{"Authorization": {"Bearer x.y"}}, 401, "this token is not known"},
			{"a reader", "POST", subscribe, header{"Authorization": {"Bearer " + reader}}, 403, "may only look"},
			{"a GET", "GET", "", nil, 405, "POST"},
			{"no content type", "POST", subscribe, header{"Content-Type": nil}, 400, "Content-Type is missing"},
			{"a content type with parameters", "POST", subscribe, header{"Content-Type": {"application/json; charset=utf-8"}}, 415, "not supported"},
			{"no call", "POST", "", nil, 400, "cannot be read"},
			{"cut off", "POST", subscribe[:20], nil, 400, "cannot be read"},
			{"no protobuf", "POST", subscribe, header{"Content-Type": {"application/x-protobuf"}}, 400, "not a protobuf message"},
			{"larger than any call", "POST", strings.Repeat(" ", mesosv1.MaxCall+1), nil, 413, "larger than"},
			{"a type that is not known", "POST", `{"type": "NEW", "framework_id": {"value": "` + s.ID + `"}}`, nil, 400, "has no type"},
			{"the type UNKNOWN", "POST", `{"type": "UNKNOWN"}`, nil, 501, "UNKNOWN"},
			{"no payload", "POST", `{"type": "KILL", "framework_id": {"value": "x"}}`, nil, 400, "must have the field kill"},
			{"no acceptable answer", "POST", subscribe, header{"Accept": {"text/html"}}, 406, "Accept"},
			{"a stream id while subscribing", "POST", subscribe, header{"Mesos-Stream-Id": {s.Stream}}, 400, "should not include"},
			{"another's name", "POST", strings.Replace(subscribe, `"n"`, `"n", "principal": "other"`, 1), nil, 400, "does not match principal 'other'"},
			{"a framework that nobody knows", "POST", revive("x"), header{"Mesos-Stream-Id": {s.Stream}}, 400, "Framework cannot be found"},
			{"another's framework", "POST", revive(s.ID), header{"Authorization": {"Bearer " + other}, "Mesos-Stream-Id": {s.Stream}}, 400, "another principal's"},
			{"a framework that is away", "POST", revive(away.ID), header{"Mesos-Stream-Id": {away.Stream}}, 403, "not subscribed"},
			{"no stream id", "POST", revive(s.ID), nil, 400, "should include"},
			{"a stream id of another", "POST", revive(s.ID), header{"Mesos-Stream-Id": {away.Stream}}, 400, "didn't match"},
			{"roles that are not its", "POST", `{"type": "SUPPRESS", "suppress": {"roles": ["x"]}, "framework_id": {"value": "` + s.ID + `"}}`, header{"Mesos-Stream-Id": {s.Stream}}, 400, "x is none of the framework's roles"},
			{"an update that cannot be", "POST", `{"type": "UPDATE_FRAMEWORK", "framework_id": {"value": "` + s.ID + `"}, "update_framework": {"framework_info": {"user": "u", "name": "n", "role": "x"}}}`, header{"Mesos-Stream-Id": {s.Stream}}, 400, "may not use role x"},
			{"an expression that cannot be", "POST", `{"type": "UPDATE_FRAMEWORK", "framework_id": {"value": "` + s.ID + `"}, "update_framework": {"framework_info": {"user": "u", "name": "n", "role": "batch"}, "offer_constraints": {"role_constraints": {"batch": {"groups": [{"attribute_constraints": [{"selector": {"attribute_name": "x"}, "predicate": {"text_matches": {"regex": "("}}}]}]}}}}}`, header{"Mesos-Stream-Id": {s.Stream}}, 400, "offer_constraints"},
		} {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, s.URL, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = header{"Authorization": {"Bearer " + s.Token}, "Content-Type": {"application/json"}}
			for k, v := range tt.header {
				req.Header[k] = v
			}
			resp, err := s.HTTP.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != tt.status || !strings.Contains(string(text), tt.says) {
				t.Errorf("%s: %d: %s (%v); want %d and %q", tt.name, resp.StatusCode, text, err, tt.status, tt.says)
			}
			if strings.Contains(string(text), s.Token) {
				t.Errorf("%s: the answer tells the token", tt.name)
			}
		}
		// None of that has cost the subscribed one anything.
		s.Call(&pb.Call{Type: pb.Call_REVIVE.Enum()})
	})
}

// A subscription that cannot be is answered on its stream.
func TestSubscriptionsAreRefused(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		w := f.Web("")
		f.Up(1)
		token := f.Principal("batch", "batch", "night")
		s := cluster.NewScheduler(t, w.Client(f), "https://"+f.Leader().Addr, token)
		s.Subscribe(cluster.Framework("batch"))
		s.Subscribed()
		bad := func(role string, change func(*pb.Call)) func(*cluster.Scheduler) {
			return func(o *cluster.Scheduler) { o.Subscribe(cluster.Framework(role), change) }
		}
		given := func(id string) func(*pb.Call) {
			return func(c *pb.Call) {
				c.FrameworkId = &pb.FrameworkID{Value: &id}
				c.GetSubscribe().GetFrameworkInfo().Id = c.FrameworkId
			}
		}
		for name, tt := range map[string]struct {
			token string
			do    func(*cluster.Scheduler)
			says  string
		}{
			"a role that is not its": {token, bad("ops", func(*pb.Call) {}), "framework/batch may not use role ops; it was given batch, night"},
			"a suppressed role that is none of its": {token, bad("batch", func(c *pb.Call) {
				c.GetSubscribe().SuppressedRoles = []string{"night"}
			}), "suppressed_roles: night is none"},
			"a time-out that is none": {token, bad("batch", func(c *pb.Call) {
				c.GetSubscribe().GetFrameworkInfo().FailoverTimeout = new(-1.0)
			}), "failover_timeout"},
			"an expression that cannot be compiled": {token, bad("batch", func(c *pb.Call) {
				c.GetSubscribe().OfferConstraints = matching("(")
			}), "missing closing"},
			"a name of what is built in": {token, bad("batch", given("run")), "too short"},
			"an id that cannot be":       {token, bad("batch", given("Not An Id, Not An Id")), "use lower-case"},
			"another's framework":        {f.Principal("other", "batch"), bad("batch", given(s.ID)), "the framework id is another principal's"},
		} {
			o := cluster.NewScheduler(t, s.HTTP, "https://"+f.Leader().Addr, tt.token)
			tt.do(o)
			if text := o.Next(pb.Event_ERROR).GetError().GetMessage(); !strings.Contains(text, tt.says) || o.Stream == "" {
				t.Errorf("%s: it says %q, want %q", name, text, tt.says)
			}
			o.Ended()
		}
		f.Leader().Stale(func(st *state.State) {
			if len(st.Frameworks) != 1 {
				t.Errorf("there are %d frameworks", len(st.Frameworks))
			}
		})
		// An id from another master is as good as any.
		o := cluster.NewScheduler(t, s.HTTP, "https://"+f.Leader().Addr, token)
		const id = "0a1b2c3d-0000-1111-2222-333344445555-0007"
		o.Subscribe(cluster.Framework("night"), given(id))
		if o.Subscribed(); o.ID != id {
			t.Errorf("it brought %s and got %s", id, o.ID)
		}
		f.Leader().Stale(func(st *state.State) {
			fw := st.Frameworks[id]
			if fw == nil || fw.Info.Principal != "framework/batch" || fw.Info.FailoverTimeout != fleet.DefaultFailoverTimeout {
				t.Errorf("it is recorded as %+v", fw)
			}
		})
	})
}

// matching are constraints that an attribute of an agent matches.
func matching(expression string) *pb.OfferConstraints {
	return &pb.OfferConstraints{RoleConstraints: map[string]*pb.OfferConstraints_RoleConstraints{"batch": {
		Groups: []*pb.OfferConstraints_RoleConstraints_Group{{AttributeConstraints: []*pb.AttributeConstraint{{
			Selector:  &pb.AttributeConstraint_Selector{Selector: &pb.AttributeConstraint_Selector_AttributeName{AttributeName: "site"}},
			Predicate: &pb.AttributeConstraint_Predicate{Predicate: &pb.AttributeConstraint_Predicate_TextMatches_{TextMatches: &pb.AttributeConstraint_Predicate_TextMatches{Regex: &expression}}},
		}}}},
	}}}
}
