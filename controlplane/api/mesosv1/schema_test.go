package mesosv1

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
)

var update = flag.Bool("update", false, "write what the schemas say into testdata/schema.txt")

// A schema that changes by accident breaks schedulers that nobody here runs.
func TestSchema(t *testing.T) {
	golden := filepath.Join("testdata", "schema.txt")
	got := listing()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("the schemas are not those of Mesos any more (-%s +pb):\n%s", golden, diff)
	}
}

// The facts that most schedulers live by, written down a second time.
func TestSchemaOfWhatMattersMost(t *testing.T) {
	text := listing()
	for _, want := range []string{
		"scheduler.Call: 1 framework_id FrameworkID opt",
		"scheduler.Call: 2 type Call.Type opt",
		"scheduler.Call: 3 subscribe Call.Subscribe opt",
		"scheduler.Call: 4 accept Call.Accept opt",
		"scheduler.Call: 5 decline Call.Decline opt",
		"scheduler.Call: 8 acknowledge Call.Acknowledge opt",
		"scheduler.Call: 13 accept_inverse_offers Call.AcceptInverseOffers opt",
		"scheduler.Call.Type: ACCEPT = 3",
		"scheduler.Call.Type: REVIVE = 5",
		"scheduler.Call.Type: KILL = 6",
		"scheduler.Call.Type: SUPPRESS = 12",
		"scheduler.Call.Accept: 2 operations Offer.Operation rep",
		"scheduler.Call.Acknowledge: 3 uuid bytes req",
		"scheduler.Event: 5 update Event.Update opt",
		"scheduler.Event: 9 inverse_offers Event.InverseOffers opt",
		"scheduler.Event.Type: HEARTBEAT = 8",
		"scheduler.Event.Subscribed: 2 heartbeat_interval_seconds double opt",
		"FrameworkInfo: 4 failover_timeout double opt default=0",
		"FrameworkInfo: 6 role string opt default=* deprecated",
		"FrameworkInfo: 12 roles string rep",
		"FrameworkInfo.Capability.Type: GPU_RESOURCES = 3",
		"FrameworkInfo.Capability.Type: PARTITION_AWARE = 5",
		"Offer.Operation.Type: LAUNCH = 1",
		"Offer.Operation.Type: LAUNCH_GROUP = 6",
		"Resource: 11 allocation_info Resource.AllocationInfo opt",
		"Resource: 13 reservations Resource.ReservationInfo rep",
		"Value.Scalar: 1 value double req",
		"Filters: 1 refuse_seconds double opt default=5",
		"TaskInfo: 7 command CommandInfo opt",
		"TaskInfo: 12 kill_policy KillPolicy opt",
		"CommandInfo: 6 shell bool opt default=true",
		"TaskState: TASK_STARTING = 0",
		"TaskState: TASK_STAGING = 6",
		"TaskState: TASK_UNREACHABLE = 10",
		"TaskStatus: 2 state TaskState req",
		"TaskStatus: 11 uuid bytes opt",
		"TaskStatus.Reason: REASON_TASK_INVALID = 14",
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("the schemas do not have: %s", want)
		}
	}
	if s := (&pb.TaskStatus{}).GetState(); s != pb.TaskState_TASK_STAGING {
		t.Errorf("an unset state reads as %s", s)
	}
}

// The JSON mapping knows these kinds of fields and no others.
func TestSchemaHasOnlyWhatTheMappingKnows(t *testing.T) {
	for _, d := range descriptors() {
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			switch f.Kind() {
			case protoreflect.BoolKind, protoreflect.EnumKind, protoreflect.StringKind, protoreflect.BytesKind,
				protoreflect.DoubleKind, protoreflect.Int32Kind, protoreflect.Int64Kind,
				protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.MessageKind:
			default:
				t.Errorf("%s: the mapping does not know %s", f.FullName(), f.Kind())
			}
			if f.IsMap() && f.MapKey().Kind() != protoreflect.StringKind {
				t.Errorf("%s: the mapping's keys are strings", f.FullName())
			}
			if !strings.HasPrefix(string(f.FullName()), "tender.mesos.v1.") {
				t.Errorf("%s: generated code for Mesos may have the same name", f.FullName())
			}
		}
	}
}

// descriptors are the messages of all schemas, by name.
func descriptors() []protoreflect.MessageDescriptor {
	var all []protoreflect.MessageDescriptor
	var visit func(protoreflect.MessageDescriptors)
	visit = func(list protoreflect.MessageDescriptors) {
		for i := range list.Len() {
			if d := list.Get(i); !d.IsMapEntry() {
				all = append(all, d)
				visit(d.Messages())
			}
		}
	}
	for _, r := range []proto.Message{
		&pb.TaskID{}, &pb.ContainerInfo{}, &pb.Resource{}, &pb.TaskInfo{}, &pb.Offer{}, &pb.Call{},
	} {
		visit(r.ProtoReflect().Descriptor().ParentFile().Messages()) // a file each
	}
	slices.SortFunc(all, func(a, b protoreflect.MessageDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return all
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return typ.New().Interface()
}

// listing has a line for each field and for each value of an enum.
func listing() string {
	var b strings.Builder
	enums := map[protoreflect.FullName]protoreflect.EnumDescriptor{}
	b.WriteString("# MESSAGE: NUMBER NAME TYPE LABEL, by the order of the schema; -update writes this file\n")
	for _, d := range descriptors() {
		if d.Fields().Len() == 0 {
			fmt.Fprintf(&b, "%s: (no fields)\n", short(d))
		}
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			if f.Enum() != nil {
				enums[f.Enum().FullName()] = f.Enum()
			}
			fmt.Fprintf(&b, "%s: %s\n", short(d), fieldLine(f))
		}
	}
	b.WriteString("# ENUM: NAME = NUMBER\n")
	names := make([]protoreflect.FullName, 0, len(enums))
	for name := range enums {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for i := range enums[name].Values().Len() {
			v := enums[name].Values().Get(i)
			fmt.Fprintf(&b, "%s: %s = %d", short(enums[name]), v.Name(), v.Number())
			if v.Options().(*descriptorpb.EnumValueOptions).GetDeprecated() {
				b.WriteString(" deprecated")
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func fieldLine(f protoreflect.FieldDescriptor) string {
	label := "opt"
	switch {
	case f.IsMap():
		label = "map"
	case f.IsList():
		label = "rep"
	case f.Cardinality() == protoreflect.Required:
		label = "req"
	case f.ContainingOneof() != nil:
		label = "oneof(" + string(f.ContainingOneof().Name()) + ")"
	}
	line := fmt.Sprintf("%d %s %s %s", f.Number(), f.Name(), typeName(f), label)
	switch {
	case f.HasDefault() && f.Enum() != nil:
		line += " default=" + string(f.DefaultEnumValue().Name())
	case f.HasDefault():
		line += " default=" + f.Default().String()
	}
	if f.Options().(*descriptorpb.FieldOptions).GetDeprecated() {
		line += " deprecated"
	}
	return line
}

func typeName(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return "map<" + typeName(f.MapKey()) + "," + typeName(f.MapValue()) + ">"
	case f.Message() != nil:
		return strings.TrimPrefix(short(f.Message()), "scheduler.")
	case f.Enum() != nil:
		return strings.TrimPrefix(short(f.Enum()), "scheduler.")
	}
	return f.Kind().String()
}

func short(d protoreflect.Descriptor) string {
	return strings.TrimPrefix(string(d.FullName()), "tender.mesos.v1.")
}
