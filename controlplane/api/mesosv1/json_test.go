package mesosv1

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
)

// golden are messages and their JSON, key for key.
var golden = []struct {
	name string
	m    proto.Message
	json string
}{
	{
		"the first event of a stream",
		&pb.Event{
			Type: pb.Event_SUBSCRIBED.Enum(),
			Subscribed: &pb.Event_Subscribed{
				FrameworkId:              &pb.FrameworkID{Value: new("fw-1")},
				HeartbeatIntervalSeconds: new(15.0),
				MasterInfo: &pb.MasterInfo{
					Id: new("m-1"), Ip: new(uint32(16777343)), Port: new(uint32(5050)),
					Address: &pb.Address{Hostname: new("trio.example"), Port: new(int32(5050))},
				},
			},
		},
		`{
			"type": "SUBSCRIBED",
			"subscribed": {
				"framework_id": {"value": "fw-1"},
				"heartbeat_interval_seconds": 15.0,
				"master_info": {
					"id": "m-1", "ip": 16777343, "port": 5050,
					"address": {"hostname": "trio.example", "port": 5050}
				}
			}
		}`,
	},
	{
		"a heartbeat",
		&pb.Event{Type: pb.Event_HEARTBEAT.Enum()},
		`{"type": "HEARTBEAT"}`,
	},
	{
		"an offer with every kind of value",
		&pb.Event{
			Type: pb.Event_OFFERS.Enum(),
			Offers: &pb.Event_Offers{Offers: []*pb.Offer{{
				Id:          &pb.OfferID{Value: new("o-1")},
				FrameworkId: &pb.FrameworkID{Value: new("fw-1")},
				AgentId:     &pb.AgentID{Value: new("a-1")},
				Hostname:    new("box"),
				Resources: []*pb.Resource{
					{Name: new("gpus"), Type: pb.Value_SCALAR.Enum(), Scalar: &pb.Value_Scalar{Value: new(2.0)}, Role: new("*")},
					{
						Name: new("ports"), Type: pb.Value_RANGES.Enum(),
						Ranges: &pb.Value_Ranges{Range: []*pb.Value_Range{{Begin: new(uint64(31000)), End: new(uint64(math.MaxUint64))}}},
					},
				},
				Attributes: []*pb.Attribute{
					{Name: new("zones"), Type: pb.Value_SET.Enum(), Set: &pb.Value_Set{Item: []string{"a", "b"}}},
					{Name: new("os"), Type: pb.Value_TEXT.Enum(), Text: &pb.Value_Text{Value: new("linux")}},
				},
				AllocationInfo: &pb.Resource_AllocationInfo{Role: new("ml")},
			}}},
		},
		`{
			"type": "OFFERS",
			"offers": {"offers": [{
				"id": {"value": "o-1"},
				"framework_id": {"value": "fw-1"},
				"agent_id": {"value": "a-1"},
				"hostname": "box",
				"resources": [
					{"name": "gpus", "type": "SCALAR", "scalar": {"value": 2.0}, "role": "*"},
					{"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": 31000, "end": 18446744073709551615}]}}
				],
				"attributes": [
					{"name": "zones", "type": "SET", "set": {"item": ["a", "b"]}},
					{"name": "os", "type": "TEXT", "text": {"value": "linux"}}
				],
				"allocation_info": {"role": "ml"}
			}]}
		}`,
	},
	{
		"a status with bytes and a false",
		&pb.Event{
			Type: pb.Event_UPDATE.Enum(),
			Update: &pb.Event_Update{Status: &pb.TaskStatus{
				TaskId: &pb.TaskID{Value: new("t-1")}, State: pb.TaskState_TASK_STAGING.Enum(),
				Source: pb.TaskStatus_SOURCE_MASTER.Enum(), Reason: pb.TaskStatus_REASON_RECONCILIATION.Enum(),
				Uuid: []byte("\x00\x01\xfe\xffsixteen--all"), Healthy: new(false), Timestamp: new(1.7e9),
				Message: new("a \"quote\", a \\, a\nline, an é and a \x01"), Data: []byte{},
			}},
		},
		`{
			"type": "UPDATE",
			"update": {"status": {
				"task_id": {"value": "t-1"}, "state": "TASK_STAGING", "data": "",
				"message": "a \"quote\", a \\, a\u000aline, an é and a \u0001",
				"timestamp": 1.7e+09, "healthy": false,
				"source": "SOURCE_MASTER", "reason": "REASON_RECONCILIATION",
				"uuid": "AAH+/3NpeHRlZW4tLWFsbA=="
			}}
		}`,
	},
	{
		"defaults are written out, deprecated ones are not",
		&pb.Call_Subscribe{FrameworkInfo: &pb.FrameworkInfo{User: new("root"), Name: new("f")}},
		`{"framework_info": {"user": "root", "name": "f", "failover_timeout": 0.0, "checkpoint": false}}`,
	},
	{
		"a deprecated one that is set is written",
		//nolint:staticcheck // deprecated is what it is about
		&pb.Resource{Name: new("cpus"), Type: pb.Value_SCALAR.Enum(), Role: new("*")},
		`{"name": "cpus", "type": "SCALAR", "role": "*"}`,
	},
	{
		"a default of true and one that is an enum's",
		&pb.CommandInfo{
			Value:       new("run"),
			Environment: &pb.Environment{Variables: []*pb.Environment_Variable{{Name: new("A")}}},
		},
		`{"environment": {"variables": [{"name": "A", "type": "VALUE"}]}, "value": "run", "shell": true}`,
	},
	{
		"maps by the order of their keys",
		&pb.TaskInfo{
			Name: new("t"), TaskId: &pb.TaskID{Value: new("t-1")}, AgentId: &pb.AgentID{Value: new("a-1")},
			Limits: map[string]*pb.Value_Scalar{
				"mem": {Value: new(math.Inf(1))}, "cpus": {Value: new(math.Inf(-1))}, "disk": {Value: new(0.001)},
			},
		},
		`{
			"name": "t", "task_id": {"value": "t-1"}, "agent_id": {"value": "a-1"},
			"limits": {"cpus": {"value": "-Infinity"}, "disk": {"value": 0.001}, "mem": {"value": "Infinity"}}
		}`,
	},
	{
		"a member of a oneof and messages without fields",
		&pb.AttributeConstraint{
			Selector: &pb.AttributeConstraint_Selector{Selector: &pb.AttributeConstraint_Selector_PseudoattributeType_{
				PseudoattributeType: pb.AttributeConstraint_Selector_ZONE,
			}},
			Predicate: &pb.AttributeConstraint_Predicate{Predicate: &pb.AttributeConstraint_Predicate_NotExists_{
				NotExists: &pb.AttributeConstraint_Predicate_NotExists{},
			}},
		},
		`{"selector": {"pseudoattribute_type": "ZONE"}, "predicate": {"not_exists": {}}}`,
	},
	{
		"enums in a list",
		&pb.CapabilityInfo{Capabilities: []pb.CapabilityInfo_Capability{pb.CapabilityInfo_CHOWN, pb.CapabilityInfo_NET_RAW}},
		`{"capabilities": ["CHOWN", "NET_RAW"]}`,
	},
}

func TestJSON(t *testing.T) {
	for _, c := range golden {
		t.Run(c.name, func(t *testing.T) {
			var want bytes.Buffer
			if err := json.Compact(&want, []byte(c.json)); err != nil {
				t.Fatal(err)
			}
			if got := encode(t, JSON, c.m); string(got) != want.String() {
				t.Errorf("got  %s\nwant %s", got, want.String())
			}
			same(t, withDefaults(c.m), decode(t, JSON, []byte(c.json), c.m))
		})
	}
}

// What other writers of JSON make of the same message.
func TestJSONReadsWhatOthersWrite(t *testing.T) {
	for _, c := range []struct {
		name, json string
		want       proto.Message
	}{
		{"unknown keys, at any depth", `{"x": [{"y": [null, 1e400, "\ud83d"]}], "refuse_seconds": 1, "z": {}}`, &pb.Filters{RefuseSeconds: new(1.0)}},
		{"another case is another key", `{"Refuse_Seconds": 1, "refuseSeconds": 2}`, &pb.Filters{}},
		{"null is unset", `{"id": null, "user": "u", "name": "n", "roles": null, "offer_filters": {"r": null}}`, &pb.FrameworkInfo{User: new("u"), Name: new("n")}},
		{"a double in a string", `{"refuse_seconds": "2.5e1"}`, &pb.Filters{RefuseSeconds: new(25.0)}},
		{"a double without end", `{"refuse_seconds": "Infinity"}`, &pb.Filters{RefuseSeconds: new(math.Inf(1))}},
		{"the other one", `{"refuse_seconds": "-Infinity"}`, &pb.Filters{RefuseSeconds: new(math.Inf(-1))}},
		{"a bool in a string", `{"user": "u", "name": "n", "checkpoint": "true"}`, &pb.FrameworkInfo{User: new("u"), Name: new("n"), Checkpoint: new(true)}},
		{"a bool in a string, false", `{"user": "u", "name": "n", "checkpoint": "false"}`, &pb.FrameworkInfo{User: new("u"), Name: new("n"), Checkpoint: new(false)}},
		{"whole numbers in strings", `{"begin": "18446744073709551615", "end": "0"}`, &pb.Value_Range{Begin: new(uint64(math.MaxUint64)), End: new(uint64(0))}},
		{"whole numbers of languages with one kind of number", `{"begin": 31000.0, "end": "3.2e4"}`, &pb.Value_Range{Begin: new(uint64(31000)), End: new(uint64(32000))}},
		{"the least of 64 bits", `{"nanoseconds": -9223372036854775808}`, &pb.DurationInfo{Nanoseconds: new(int64(math.MinInt64))}},
		{"base64 without its padding", `{"value": "AAE"}`, &pb.UUID{Value: []byte{0, 1}}},
		{"an unknown name in an optional enum", `{"type": "TELEPORTATION"}`, &pb.FrameworkInfo_Capability{}},
		{"an unknown name in a list of enums", `{"capabilities": ["KILL", "PERFMON", "CHOWN"]}`, &pb.CapabilityInfo{Capabilities: []pb.CapabilityInfo_Capability{pb.CapabilityInfo_KILL, pb.CapabilityInfo_CHOWN}}},
		{"empty lists and messages", `{"offer_ids": [], "filters": {}}`, &pb.Call_Decline{Filters: &pb.Filters{}}},
		{"space around", " \n{}\t\n", &pb.Filters{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			same(t, c.want, decode(t, JSON, []byte(c.json), c.want))
		})
	}
}

func TestJSONRefuses(t *testing.T) {
	for _, c := range []struct {
		name, json, want string
		into             proto.Message
	}{
		{"nothing", ``, "ends too early", &pb.Filters{}},
		{"an end too early", `{"refuse_seconds": `, "ends too early", &pb.Filters{}},
		{"no JSON", `{refuse_seconds: 1}`, "not JSON: invalid character 'r'", &pb.Filters{}},
		{"a comma too many", `{"refuse_seconds": 1,}`, "not JSON: invalid character '}'", &pb.Filters{}},
		{"the wrong bracket", `{"refuse_seconds": 1]`, "not JSON: invalid character ']'", &pb.Filters{}},
		{"something after it", `{} {}`, "something follows the object", &pb.Filters{}},
		{"an array", `[]`, "takes an object, not an array", &pb.Filters{}},
		{"null", `null`, "takes an object, not null", &pb.Filters{}},
		{"no UTF-8", "{\"x\": \"\xff\"}", "not UTF-8", &pb.Filters{}},

		{"text for a number", `{"refuse_seconds": "soon"}`, `refuse_seconds: takes a number, not the string "soon"`, &pb.Filters{}},
		{"a number that is none of JSON", `{"refuse_seconds": "0x10"}`, `takes a number, not the string "0x10"`, &pb.Filters{}},
		{"NaN", `{"refuse_seconds": "NaN"}`, `takes a number, not the string "NaN"`, &pb.Filters{}},
		{"space in a number", `{"refuse_seconds": "1 "}`, `takes a number`, &pb.Filters{}},
		{"a number without end", `{"refuse_seconds": 1e999}`, `1e999 is out of range`, &pb.Filters{}},
		{"a list for a number", `{"refuse_seconds": [1]}`, `takes a number, not an array`, &pb.Filters{}},
		{"true for a number", `{"refuse_seconds": true}`, `takes a number, not true`, &pb.Filters{}},
		{"a fraction", `{"begin": 1.5, "end": 2}`, `begin: 1.5 is not a whole number`, &pb.Value_Range{}},
		{"a large exponent", `{"begin": 1e400000000, "end": 2}`, `is not a whole number`, &pb.Value_Range{}},
		{"a large number with a fraction", `{"begin": 9007199254740994.0, "end": 2}`, `begin: write 9007199254740994.0 without fraction and exponent`, &pb.Value_Range{}},
		{"less than nothing", `{"begin": -1, "end": 2}`, `begin: -1 is not from 0 to 18446744073709551615`, &pb.Value_Range{}},
		{"more than 64 bits", `{"begin": 18446744073709551616, "end": 2}`, `is not from 0 to`, &pb.Value_Range{}},
		{"more than 32 bits", `{"port": 2147483648}`, `port: 2147483648 is not from -2147483648 to 2147483647`, &pb.Address{}},
		{"more than 32 bits unsigned", `{"port": 4294967296}`, `port: 4294967296 is not from 0 to 4294967295`, &pb.CheckInfo_Tcp{}},
		{"a number for a text", `{"value": 5}`, `value: takes a string, not the number 5`, &pb.TaskID{}},
		{"an object for a text", `{"value": {}}`, `value: takes a string, not an object`, &pb.TaskID{}},
		{"a number for a bool", `{"checkpoint": 1}`, `checkpoint: takes true or false, not the number 1`, &pb.FrameworkInfo{}},
		{"a number for an enum", `{"type": 1}`, `type: takes the name of a value of Type, not the number 1`, &pb.Call{}},
		{"an unknown name in a required enum", `{"state": "TASK_BORED"}`, `state: "TASK_BORED" is no TaskState`, &pb.TaskStatus{}},
		{"no base64", `{"value": "*"}`, `value: the string is not base64`, &pb.UUID{}},
		{"no list", `{"roles": "a"}`, `roles: takes an array, not the string "a"`, &pb.Call_Revive{}},
		{"null in a list", `{"roles": ["a", null]}`, `roles[1]: takes a string, not null`, &pb.Call_Revive{}},
		{"no map", `{"limits": []}`, `limits: takes an object, not an array`, &pb.TaskInfo{}},
		{"a key twice", `{"value": "a", "value": "b"}`, `value: stands there twice`, &pb.TaskID{}},
		{"a key of a map twice", `{"limits": {"a": {"value": 1}, "a": {"value": 1}}}`, `limits["a"]: stands there twice`, &pb.TaskInfo{}},
		{"two of a oneof", `{"exists": {}, "text_equals": {"value": "x"}}`, `text_equals: excludes exists: choose one`, &pb.AttributeConstraint_Predicate{}},

		{
			"missing fields", `{"subscribe": {"framework_info": {}}, "accept": {"offer_ids": [{"value": "o"}, {}]}}`,
			"required and missing: subscribe.framework_info.user, subscribe.framework_info.name, accept.offer_ids[1].value", &pb.Call{},
		},
		{
			"many missing fields", `{"offer_ids": [{}, {}, {}, {}, {}, {}, {}, {}, {}, {}]}`,
			"required and missing: offer_ids[0].value, offer_ids[1].value, offer_ids[2].value, offer_ids[3].value, " +
				"offer_ids[4].value, offer_ids[5].value, offer_ids[6].value, offer_ids[7].value and maybe more", &pb.Call_Decline{},
		},
		{
			"missing fields in a map", `{"role_constraints": {"a": {}, "b": {"groups": [{"attribute_constraints": [{"predicate": {}}]}]}}}`,
			`required and missing: role_constraints["b"].groups[0].attribute_constraints[0].selector`, &pb.OfferConstraints{},
		},
		{
			"the place of a mistake", `{"accept": {"operations": [{}, {"launch": {"task_infos": [{"limits": {"mem": {"value": "much"}}}]}}]}}`,
			`accept.operations[1].launch.task_infos[0].limits["mem"].value: takes a number`, &pb.Call{},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := JSON.Unmarshal([]byte(c.json), c.into)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestAppendRefuses(t *testing.T) {
	nan := &pb.Filters{RefuseSeconds: new(math.NaN())}
	nameless := &pb.TaskStatus{TaskId: &pb.TaskID{Value: new("t")}, State: pb.TaskState(99).Enum()}
	incomplete := &pb.Event{Rescind: &pb.Event_Rescind{}}
	for _, c := range []struct {
		e    Encoding
		m    proto.Message
		want string
	}{
		{JSON, nan, "mesosv1: write Filters: refuse_seconds: NaN has no JSON form"},
		{JSON, nameless, "mesosv1: write TaskStatus: state: 99 is no TaskState"},
		{JSON, incomplete, "mesosv1: write Event: required and missing: rescind.offer_id"},
		{JSON, &pb.TaskID{Value: new("\xff")}, "mesosv1: write TaskID: value: the text is not UTF-8"},
		{Protobuf, incomplete, "mesosv1: write Event: required and missing: rescind.offer_id"},
	} {
		b, err := c.e.Append([]byte("kept"), c.m)
		if err == nil || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
		if string(b) != "kept" {
			t.Errorf("the buffer has become %q", b)
		}
	}
}
