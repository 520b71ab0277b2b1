package mesosv1

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
)

const framework = `"framework_id": {"value": "fw-1"}`

// valid has a call of every type.
var valid = []string{
	`{"type": "SUBSCRIBE", "subscribe": {"framework_info": {"user": "u", "name": "n"}}}`,
	`{"type": "SUBSCRIBE", ` + framework + `, "subscribe": {"framework_info": {"user": "u", "name": "n", "id": {"value": "fw-1"}}}}`,
	`{"type": "TEARDOWN", ` + framework + `}`,
	`{"type": "ACCEPT", ` + framework + `, "accept": {"offer_ids": [{"value": "o-1"}], "operations": [{"type": "LAUNCH", "launch": {"task_infos": []}}]}}`,
	`{"type": "DECLINE", ` + framework + `, "decline": {"offer_ids": [{"value": "o-1"}], "filters": {"refuse_seconds": 60}}}`,
	`{"type": "REVIVE", ` + framework + `}`,
	`{"type": "REVIVE", ` + framework + `, "revive": {"roles": ["a"]}}`,
	`{"type": "SUPPRESS", ` + framework + `}`,
	`{"type": "KILL", ` + framework + `, "kill": {"task_id": {"value": "t-1"}}}`,
	`{"type": "SHUTDOWN", ` + framework + `, "shutdown": {"executor_id": {"value": "e"}, "agent_id": {"value": "a"}}}`,
	`{"type": "ACKNOWLEDGE", ` + framework + `, "acknowledge": {"agent_id": {"value": "a"}, "task_id": {"value": "t"}, "uuid": "AAAAAAAAAAAAAAAAAAAAAA=="}}`,
	`{"type": "ACKNOWLEDGE_OPERATION_STATUS", ` + framework + `, "acknowledge_operation_status": {"operation_id": {"value": "o"}, "uuid": "AAAAAAAAAAAAAAAAAAAAAA=="}}`,
	`{"type": "RECONCILE", ` + framework + `, "reconcile": {}}`,
	`{"type": "RECONCILE_OPERATIONS", ` + framework + `, "reconcile_operations": {}}`,
	`{"type": "MESSAGE", ` + framework + `, "message": {"agent_id": {"value": "a"}, "executor_id": {"value": "e"}, "data": "aGk="}}`,
	`{"type": "REQUEST", ` + framework + `, "request": {}}`,
	`{"type": "ACCEPT_INVERSE_OFFERS", ` + framework + `, "accept_inverse_offers": {}}`,
	`{"type": "DECLINE_INVERSE_OFFERS", ` + framework + `, "decline_inverse_offers": {}}`,
	`{"type": "UPDATE_FRAMEWORK", ` + framework + `, "update_framework": {"framework_info": {"user": "u", "name": "n", "id": {"value": "fw-1"}}}}`,
	`{"type": "UPDATE_FRAMEWORK", ` + framework + `, "update_framework": {"framework_info": {"user": "u", "name": "n"}}}`,
}

func TestDecodeCall(t *testing.T) {
	for _, body := range valid {
		c, err := DecodeCall("application/json", []byte(body))
		if err != nil {
			t.Errorf("%v, of %s", err, body)
			continue
		}
		again, err := DecodeCall("application/x-protobuf", encode(t, Protobuf, c))
		if err != nil {
			t.Errorf("%v, of %s in protobuf", err, body)
			continue
		}
		same(t, c, again)
	}
}

func TestDecodeCallRefuses(t *testing.T) {
	const (
		teardown = `{"type": "TEARDOWN", ` + framework + `}`
		info     = `"user": "u", "name": "n"`
	)
	for _, c := range []struct {
		name, contentType, body string
		status                  int
		want                    string
	}{
		{"no Content-Type", "", teardown, 400, "Content-Type is missing: send application/json"},
		{"another Content-Type", "text/plain", teardown, 415, `Content-Type "text/plain" is not supported`},
		{"RecordIO is not for bodies", "application/recordio", teardown, 415, "is not supported"},
		{"a parameter", "application/json; charset=utf-8", teardown, 415, "without parameters"},
		{"another case", "application/JSON", teardown, 415, "is not supported"},
		{"the Content-Type comes first", "text/plain", "{", 415, "is not supported"},

		{"an empty body", "application/json", "", 400, "the call cannot be read: the JSON ends too early"},
		{"no JSON", "application/json", "{", 400, "the call cannot be read"},
		{"no protobuf", "application/x-protobuf", "{}", 400, "the call cannot be read: the bytes are not a protobuf message"},
		{"a required field is missing", "application/json", `{"type": "KILL", ` + framework + `, "kill": {"task_id": {}}}`, 400, "required and missing: kill.task_id.value"},
		{"required fields are missing in protobuf", "application/x-protobuf", "\x1a\x02\x0a\x00", 400, "required and missing: subscribe.framework_info.user, subscribe.framework_info.name"},

		{"no type", "application/json", `{` + framework + `}`, 400, "the call has no type"},
		{"no type, in an empty protobuf", "application/x-protobuf", "", 400, "the call has no type"},
		{"an unknown type", "application/json", `{"type": "DANCE", ` + framework + `}`, 400, "the call has no type, or one that is not known here"},
		{"an unknown type in protobuf", "application/x-protobuf", "\x10\x63", 400, "the call has no type, or one that is not known here"},
		{"the type UNKNOWN", "application/json", `{"type": "UNKNOWN"}`, 501, "UNKNOWN"},
		{"no framework_id", "application/json", `{"type": "TEARDOWN"}`, 400, "a call of type TEARDOWN must have the field framework_id"},
		{"another type's payload", "application/json", `{"type": "ACCEPT", ` + framework + `, "decline": {}}`, 400, "a call of type ACCEPT must have the field accept"},
		{"only the inner id", "application/json", `{"type": "SUBSCRIBE", "subscribe": {"framework_info": {` + info + `, "id": {"value": "a"}}}}`, 400, "subscribe.framework_info.id is set and framework_id is not"},
		{"only the outer id", "application/json", `{"type": "SUBSCRIBE", ` + framework + `, "subscribe": {"framework_info": {` + info + `}}}`, 400, "framework_id is set and subscribe.framework_info.id is not"},
		{"two ids", "application/json", `{"type": "SUBSCRIBE", ` + framework + `, "subscribe": {"framework_info": {` + info + `, "id": {"value": "fw-2"}}}}`, 400, "not the same"},
		{"somebody else's update", "application/json", `{"type": "UPDATE_FRAMEWORK", ` + framework + `, "update_framework": {"framework_info": {` + info + `, "id": {"value": "fw-2"}}}}`, 400, "update_framework.framework_info.id is not the call's framework_id"},
		{"a short UUID", "application/json", `{"type": "ACKNOWLEDGE", ` + framework + `, "acknowledge": {"agent_id": {"value": "a"}, "task_id": {"value": "t"}, "uuid": "AAAA"}}`, 400, "acknowledge.uuid has 3 bytes"},
		{"a UUID as text", "application/json", `{"type": "ACKNOWLEDGE_OPERATION_STATUS", ` + framework + `, "acknowledge_operation_status": {"operation_id": {"value": "o"}, "uuid": "` + strings.Repeat("A", 48) + `"}}`, 400, "acknowledge_operation_status.uuid has 36 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, c.contentType, c.body, c.status, c.want)
		})
	}
}

// Every type but three is refused without what it is about.
func TestEveryTypeHasItsPayload(t *testing.T) {
	for n, name := range pb.Call_Type_name {
		c := &pb.Call{Type: pb.Call_Type(n).Enum(), FrameworkId: &pb.FrameworkID{Value: new("f")}}
		err := validate(c)
		switch c.GetType() {
		case pb.Call_TEARDOWN, pb.Call_REVIVE, pb.Call_SUPPRESS:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		default:
			if err == nil {
				t.Errorf("%s is accepted without a payload", name)
			}
		}
	}
}

// The bytes that a scheduler sends, by their numbers.
func TestCallByItsNumbers(t *testing.T) {
	text := func(n protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), s)
	}
	inside := func(n protowire.Number, parts ...[]byte) []byte { return text(n, string(concat(parts...))) }
	varint := func(n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
	}
	subscribe := concat(
		varint(2, 1), // type = SUBSCRIBE
		inside(3, inside(1, // subscribe.framework_info
			text(1, "root"), text(2, "train"), text(12, "ml"),
			inside(10, varint(1, 3)),  // GPU_RESOURCES
			inside(10, varint(1, 99)), // of a newer Mesos
			text(99, "of a newer Mesos, too"),
		)),
	)
	c, err := DecodeCall("application/x-protobuf", subscribe)
	if err != nil {
		t.Fatal(err)
	}
	same(t, &pb.Call{
		Type: pb.Call_SUBSCRIBE.Enum(),
		Subscribe: &pb.Call_Subscribe{FrameworkInfo: &pb.FrameworkInfo{
			User: new("root"), Name: new("train"), Roles: []string{"ml"},
			Capabilities: []*pb.FrameworkInfo_Capability{{Type: pb.FrameworkInfo_Capability_GPU_RESOURCES.Enum()}, {}},
		}},
	}, c)
	again := encode(t, Protobuf, c)
	kept := concat(varint(2, 1), inside(3, inside(1,
		text(1, "root"), text(2, "train"), inside(10, varint(1, 3)), inside(10), text(12, "ml"))))
	if string(again) != string(kept) {
		t.Errorf("sent on as %x, want %x", again, kept)
	}
}

func concat(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// The numbers of enums in protobuf are treated as their names in JSON.
func TestUnknownEnumsInProtobuf(t *testing.T) {
	list := &pb.CapabilityInfo{Capabilities: []pb.CapabilityInfo_Capability{7, pb.CapabilityInfo_KILL, 8, pb.CapabilityInfo_CHOWN}}
	got := decode(t, Protobuf, raw(t, list), list)
	same(t, &pb.CapabilityInfo{Capabilities: []pb.CapabilityInfo_Capability{pb.CapabilityInfo_KILL, pb.CapabilityInfo_CHOWN}}, got)

	oneof := &pb.AttributeConstraint_Selector{Selector: &pb.AttributeConstraint_Selector_PseudoattributeType_{PseudoattributeType: 99}}
	same(t, &pb.AttributeConstraint_Selector{}, decode(t, Protobuf, raw(t, oneof), oneof))

	entry := func(s *pb.Secret) proto.Message {
		return &pb.Volume_Source_CSIVolume_StaticProvisioning{
			VolumeId: new("v"), NodeStageSecrets: map[string]*pb.Secret{"s": s},
			VolumeCapability: &pb.Volume_Source_CSIVolume_VolumeCapability{
				AccessMode: &pb.Volume_Source_CSIVolume_VolumeCapability_AccessMode{
					Mode: pb.Volume_Source_CSIVolume_VolumeCapability_AccessMode_SINGLE_NODE_WRITER.Enum(),
				},
			},
		}
	}
	unknown := entry(&pb.Secret{Type: pb.Secret_Type(99).Enum()})
	same(t, entry(&pb.Secret{}), decode(t, Protobuf, raw(t, unknown), unknown))

	for want, m := range map[string]proto.Message{
		"state: 99 is no TaskState": &pb.TaskStatus{State: pb.TaskState(99).Enum()},
		`accept.operations[0].launch.task_infos[0].container.type: 9 is no Type`: &pb.Call{Accept: &pb.Call_Accept{Operations: []*pb.Offer_Operation{{
			Launch: &pb.Offer_Operation_Launch{TaskInfos: []*pb.TaskInfo{{Container: &pb.ContainerInfo{Type: pb.ContainerInfo_Type(9).Enum()}}}},
		}}}},
		`role_constraints["r"].groups[0].attribute_constraints[0]`: &pb.OfferConstraints{RoleConstraints: map[string]*pb.OfferConstraints_RoleConstraints{
			"r": {Groups: []*pb.OfferConstraints_RoleConstraints_Group{{AttributeConstraints: []*pb.AttributeConstraint{{}}}}},
		}},
	} {
		err := Protobuf.Unmarshal(raw(t, m), m.ProtoReflect().New().Interface())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestProtobufRefusesTextThatIsNotUTF8(t *testing.T) {
	for want, m := range map[string]proto.Message{
		"value: the text is not UTF-8":                  &pb.TaskID{Value: new("\xff")},
		"roles[1]: the text is not UTF-8":               &pb.Call_Revive{Roles: []string{"a", "\xff"}},
		`limits["\xff"]: the text is not UTF-8`:         &pb.TaskInfo{Limits: map[string]*pb.Value_Scalar{"\xff": {Value: new(1.0)}}},
		"launch.task_infos[0].name: the text is not UT": &pb.Offer_Operation{Launch: &pb.Offer_Operation_Launch{TaskInfos: []*pb.TaskInfo{{Name: new("\xff")}}}},
	} {
		err := Protobuf.Unmarshal(raw(t, m), m.ProtoReflect().New().Interface())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// raw is a message in protobuf, however wrong it is.
func raw(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func refused(t *testing.T, contentType, body string, status int, want string) {
	t.Helper()
	_, err := DecodeCall(contentType, []byte(body))
	var r *Refusal
	if !errors.As(err, &r) || r.Status != status || !strings.Contains(r.Text, want) {
		t.Fatalf("got %v, want %d and %q", err, status, want)
	}
	if http.StatusText(r.Status) == "" || r.Error() != r.Text {
		t.Errorf("not a refusal that can be sent: %+v", r)
	}
}
