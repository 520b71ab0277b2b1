package mesosv1

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

// readSubscribe reads a subscription of a user and a name.
func readSubscribe(t *testing.T, info, more string) *pb.Call_Subscribe {
	t.Helper()
	in := &pb.Call{}
	text := `{"type": "SUBSCRIBE", "subscribe": {"framework_info": {"user": "u", "name": "n"` + info + `}` + more + `}}`
	if err := JSON.Unmarshal([]byte(text), in); err != nil {
		t.Fatal(err)
	}
	return in.GetSubscribe()
}

const multi = `, "capabilities": [{"type": "MULTI_ROLE"}, {"type": "GPU_RESOURCES"}]`

func TestFrameworksAreDescribed(t *testing.T) {
	who := access.Principal{Kind: state.KindFramework, ID: "p", AllRoles: true}
	for name, tt := range map[string]struct {
		info, more string
		want       fleet.FrameworkInfo
	}{
		"the least":                  {"", "", fleet.FrameworkInfo{Roles: []fleet.Role{"*"}, FailoverTimeout: fleet.DefaultFailoverTimeout}},
		"one role":                   {`, "role": "a/b"`, "", fleet.FrameworkInfo{Roles: []fleet.Role{"a/b"}, FailoverTimeout: fleet.DefaultFailoverTimeout}},
		"a time-out of none":         {`, "failover_timeout": 0`, "", fleet.FrameworkInfo{Roles: []fleet.Role{"*"}, FailoverTimeout: fleet.DefaultFailoverTimeout}},
		"a time-out":                 {`, "failover_timeout": 1.5`, "", fleet.FrameworkInfo{Roles: []fleet.Role{"*"}, FailoverTimeout: 1500 * time.Millisecond}},
		"a time-out for ever":        {`, "failover_timeout": "Infinity"`, "", fleet.FrameworkInfo{Roles: []fleet.Role{"*"}, FailoverTimeout: maxFailover}},
		"roles, in order":            {multi + `, "roles": ["b", "a"]`, "", fleet.FrameworkInfo{Roles: []fleet.Role{"a", "b"}, FailoverTimeout: fleet.DefaultFailoverTimeout, Capabilities: []fleet.Capability{"MULTI_ROLE", "GPU_RESOURCES"}}},
		"an unknown capability":      {`, "capabilities": [{"type": "NEW"}, {}]`, "", fleet.FrameworkInfo{Roles: []fleet.Role{"*"}, FailoverTimeout: fleet.DefaultFailoverTimeout}},
		"for people":                 {`, "hostname": "h", "webui_url": "http://h", "labels": {"labels": [{"key": "k", "value": "v"}]}`, "", fleet.FrameworkInfo{Roles: []fleet.Role{"*"}, FailoverTimeout: fleet.DefaultFailoverTimeout, Hostname: "h", WebUI: "http://h", Labels: []fleet.Label{{Key: "k", Value: "v"}}}},
		"anything is worth an offer": {`, "role": "a", "offer_filters": {"a": {"min_allocatable_resources": {}}}`, "", fleet.FrameworkInfo{Roles: []fleet.Role{"a"}, FailoverTimeout: fleet.DefaultFailoverTimeout, Min: map[fleet.Role][]fleet.Quantities{"a": {}}}},
		"the fleet's rule":           {`, "role": "a", "offer_filters": {"a": {}}`, "", fleet.FrameworkInfo{Roles: []fleet.Role{"a"}, FailoverTimeout: fleet.DefaultFailoverTimeout}},
		"the least offer": {
			`, "role": "a", "offer_filters": {"a": {"min_allocatable_resources": {"quantities": [{"quantities": {"mem": {"value": 64}, "cpus": {"value": 0.5}}}]}}}`, "",
			fleet.FrameworkInfo{Roles: []fleet.Role{"a"}, FailoverTimeout: fleet.DefaultFailoverTimeout, Min: map[fleet.Role][]fleet.Quantities{"a": {{{Name: "cpus", Amount: 500}, {Name: "mem", Amount: 64000}}}}},
		},
		"constraints": {
			`, "role": "a"`, `, "offer_constraints": {"role_constraints": {"a": {"groups": [
			{"attribute_constraints": [{"selector": {"attribute_name": "rack"}, "predicate": {"text_equals": {"value": "1"}}}, {"selector": {"pseudoattribute_type": "HOSTNAME"}, "predicate": {"text_not_matches": {"regex": "x.*"}}}]},
			{"attribute_constraints": [{"selector": {"pseudoattribute_type": "ZONE"}, "predicate": {"exists": {}}}]}]}}}`,
			fleet.FrameworkInfo{Roles: []fleet.Role{"a"}, FailoverTimeout: fleet.DefaultFailoverTimeout, Constraints: map[fleet.Role]fleet.OfferConstraints{"a": {
				{{Attribute: "rack", Predicate: fleet.TextEquals, Value: "1"}, {Predicate: fleet.TextNotMatches, Value: "x.*"}},
				{{Attribute: "zone", Predicate: fleet.Exists}},
			}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := readSubscribe(t, tt.info, tt.more)
			got, err := describe(in.GetFrameworkInfo(), in.GetOfferConstraints(), who)
			tt.want.User, tt.want.Name, tt.want.Principal = "u", "n", "framework/p"
			if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
				t.Errorf("it is\n%+v (%v), want\n%+v", got, err, tt.want)
			}
		})
	}
}

func TestFrameworksAreRefused(t *testing.T) {
	who := access.Principal{Kind: state.KindFramework, ID: "p", Roles: []fleet.Role{"a", "b"}}
	a := func(constraint string) string {
		return `, "offer_constraints": {"role_constraints": {"a": {"groups": [{"attribute_constraints": [` + constraint + `]}]}}}`
	}
	for name, tt := range map[string]struct{ info, more, says string }{
		"a role that is not its":        {`, "role": "c"`, "", "framework/p may not use role c; it was given a, b"},
		"the default role is one, too":  {"", "", "may not use role *"},
		"a role that is none":           {`, "role": "A B"`, "", "use lower-case"},
		"role and MULTI_ROLE":           {multi + `, "role": "a"`, "", "role must not be set"},
		"roles and not MULTI_ROLE":      {`, "roles": ["a"]`, "", "roles is only for frameworks"},
		"a role twice":                  {multi + `, "roles": ["a", "a"]`, "", "named twice"},
		"a time-out below zero":         {`, "role": "a", "failover_timeout": -1`, "", "-1 is not a number of seconds"},
		"a long name":                   {`, "role": "a", "hostname": "` + strings.Repeat("x", 256) + `"`, "", "hostname is longer"},
		"a long label":                  {`, "role": "a", "labels": {"labels": [{"key": "` + strings.Repeat("x", 256) + `"}]}`, "", "labels"},
		"filters of another role":       {`, "role": "a", "offer_filters": {"b": {}}`, "", "b is none of the framework's roles"},
		"a negative least":              {`, "role": "a", "offer_filters": {"a": {"min_allocatable_resources": {"quantities": [{"quantities": {"mem": {"value": -1}}}]}}}`, "", "less than zero"},
		"constraints of another role":   {`, "role": "b"`, a(``), "a is none of the framework's roles"},
		"an empty group":                {`, "role": "a"`, a(``), "a group is empty"},
		"no groups":                     {`, "role": "a"`, `, "offer_constraints": {"role_constraints": {"a": {}}}`, "no groups"},
		"a selector that is not known":  {`, "role": "a"`, a(`{"selector": {}, "predicate": {"exists": {}}}`), "selector is of an unknown kind"},
		"a predicate that is not known": {`, "role": "a"`, a(`{"selector": {"attribute_name": "x"}, "predicate": {}}`), "predicate is of an unknown kind"},
		"a long text":                   {`, "role": "a"`, a(`{"selector": {"attribute_name": "x"}, "predicate": {"text_equals": {"value": "` + strings.Repeat("x", 5000) + `"}}}`), "longer than 4 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			in := readSubscribe(t, tt.info, tt.more)
			if got, err := describe(in.GetFrameworkInfo(), in.GetOfferConstraints(), who); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("it is %+v (%v), want %q", got, err, tt.says)
			}
		})
	}
}
