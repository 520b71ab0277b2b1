package mesosv1

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/transport/fleet"
)

// readTask reads a task in JSON whose required fields are filled in.
func readTask(t *testing.T, fields string) *pb.TaskInfo {
	t.Helper()
	in := &pb.TaskInfo{}
	text := `{"name": "Web Server", "task_id": {"value": "t"}, "agent_id": {"value": "a"}` + fields + `}`
	if err := JSON.Unmarshal([]byte(text), in); err != nil {
		t.Fatal(err)
	}
	return in
}

func TestTasksAreRead(t *testing.T) {
	const sleep = `, "command": {"value": "sleep 1"}`
	for name, tt := range map[string]struct {
		fields string
		user   string // of the framework
		want   fleet.TaskSpec
	}{
		"a line for the shell": {sleep, "", fleet.TaskSpec{Command: []string{"/bin/sh", "-c", "sleep 1"}}},
		"a program": {
			`, "command": {"shell": false, "value": "/bin/echo", "arguments": ["echo", "a", "b"]}`, "",
			fleet.TaskSpec{Command: []string{"/bin/echo", "a", "b"}},
		},
		"a program without arguments": {`, "command": {"shell": false, "value": "/bin/true"}`, "", fleet.TaskSpec{Command: []string{"/bin/true"}}},
		"a program for Docker": {
			`, "container": {"type": "DOCKER", "docker": {"image": "nginx"}}, "command": {"shell": false, "value": "echo", "arguments": ["a"]}`, "",
			fleet.TaskSpec{Image: "nginx", Command: []string{"echo", "a"}},
		},
		"the image's own": {
			`, "container": {"type": "DOCKER", "docker": {"image": "nginx", "network": "NONE"}}, "command": {"shell": false}`, "",
			fleet.TaskSpec{Image: "nginx", Network: fleet.NetworkNone},
		},
		"an image of Mesos's": {
			`, "container": {"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": "alpine:3"}}}}` + sleep, "",
			fleet.TaskSpec{Image: "alpine:3", Command: []string{"/bin/sh", "-c", "sleep 1"}},
		},
		"a container without an image": {`, "container": {"type": "MESOS"}` + sleep, "", fleet.TaskSpec{Command: []string{"/bin/sh", "-c", "sleep 1"}}},
		"environment and user": {
			`, "command": {"value": "x", "user": "www", "environment": {"variables": [{"name": "A", "value": "1"}, {"name": "B"}]}}`, "root",
			fleet.TaskSpec{Command: []string{"/bin/sh", "-c", "x"}, Env: map[string]string{"A": "1", "B": ""}, User: "www"},
		},
		"the framework's user is root":            {sleep, "root", fleet.TaskSpec{Command: []string{"/bin/sh", "-c", "sleep 1"}, User: "0"}},
		"the framework's user is a number":        {sleep, "1000", fleet.TaskSpec{Command: []string{"/bin/sh", "-c", "sleep 1"}, User: "1000"}},
		"the framework's user is one of machines": {sleep, "marathon", fleet.TaskSpec{Command: []string{"/bin/sh", "-c", "sleep 1"}}},
		"a grace period": {
			`, "kill_policy": {"grace_period": {"nanoseconds": 3000000000}}` + sleep, "",
			fleet.TaskSpec{Command: []string{"/bin/sh", "-c", "sleep 1"}, KillGrace: 3 * time.Second},
		},
		"no grace period": {
			`, "kill_policy": {"grace_period": {"nanoseconds": 0}}` + sleep, "",
			fleet.TaskSpec{Command: []string{"/bin/sh", "-c", "sleep 1"}, KillGrace: time.Millisecond},
		},
		"labels, as far as they can be": {
			`, "labels": {"labels": [{"key": "tier", "value": "web"}, {"key": "HAPROXY_0", "value": "x"}, {"key": "flag"}]}` + sleep, "",
			fleet.TaskSpec{Command: []string{"/bin/sh", "-c", "sleep 1"}, Labels: map[string]string{"tier": "web", "flag": ""}},
		},
		"how to find it": {`, "discovery": {"visibility": "CLUSTER", "name": "web"}` + sleep, "", fleet.TaskSpec{Command: []string{"/bin/sh", "-c", "sleep 1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := specification(&fleet.FrameworkInfo{User: tt.user}, readTask(t, tt.fields), DefaultImage)
			if tt.want.Name = "web-server"; tt.want.Image == "" {
				tt.want.Image = DefaultImage
			}
			if tt.want.Network == "" {
				tt.want.Network = fleet.NetworkHost
			}
			if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
				t.Errorf("it is\n%+v (%v), want\n%+v", got, err, tt.want)
			}
		})
	}
}

func TestTasksAreRefused(t *testing.T) {
	const sleep = `, "command": {"value": "sleep 1"}`
	docker := func(fields string) string {
		return `, "container": {"type": "DOCKER", "docker": {"image": "nginx"` + fields + `}}` + sleep
	}
	for name, tt := range map[string]struct{ fields, says string }{
		"no command":                 {"", "should have a CommandInfo"},
		"an executor":                {`, "executor": {"executor_id": {"value": "e"}}` + sleep, "custom executors are not supported"},
		"a shell and no line":        {`, "command": {"shell": true}`, "has the field value"},
		"arguments and no program":   {`, "command": {"shell": false, "arguments": ["x"]}`, "name the program in value"},
		"URIs":                       {`, "command": {"value": "x", "uris": [{"value": "http://example.org/x"}]}`, "command.uris is not supported"},
		"a secret":                   {`, "command": {"value": "x", "environment": {"variables": [{"name": "A", "type": "SECRET", "secret": {"type": "VALUE", "value": {"data": "eA=="}}}]}}`, "environment variable A is a secret"},
		"a health check of no type":  {`, "health_check": {"tcp": {"port": 80}}` + sleep, "health_check: its type is missing"},
		"a health check of nothing":  {`, "health_check": {"type": "HTTP"}` + sleep, "has the field http"},
		"a health check of no port":  {`, "health_check": {"type": "TCP", "tcp": {"port": 0}}` + sleep, "port 0"},
		"a health check in the past": {`, "health_check": {"type": "TCP", "tcp": {"port": 80}, "delay_seconds": -1}` + sleep, "delay_seconds -1 is out of range"},
		"a check over IPv6":          {`, "health_check": {"type": "TCP", "tcp": {"port": 80, "protocol": "IPv6"}}` + sleep, "over IPv6"},
		"a check without a command":  {`, "check": {"type": "COMMAND"}` + sleep, "check: a check of type COMMAND has a command"},
		"a time limit below zero":    {`, "max_completion_time": {"nanoseconds": -1}` + sleep, "max_completion_time is less than zero"},
		"a limit of ports":           {`, "limits": {"ports": {"value": 2}}` + sleep, "ports has no limit"},
		"a limit of nothing":         {`, "limits": {"mem": {"value": 0}}` + sleep, "mem 0 is no limit"},
		"a grace period below zero":  {`, "kill_policy": {"grace_period": {"nanoseconds": -1}}` + sleep, "less than zero"},
		"a volume":                   {`, "container": {"type": "MESOS", "volumes": [{"container_path": "/x", "mode": "RW"}]}` + sleep, "container.volumes is not supported"},
		"a network of its own":       {`, "container": {"type": "MESOS", "network_infos": [{"name": "net"}]}` + sleep, "container.network_infos"},
		"capabilities":               {`, "container": {"type": "MESOS", "linux_info": {}}` + sleep, "container.linux_info"},
		"an appc image":              {`, "container": {"type": "MESOS", "mesos": {"image": {"type": "APPC", "appc": {"name": "x"}}}}` + sleep, "images of type APPC"},
		"Docker without an image":    {`, "container": {"type": "DOCKER"}` + sleep, "has the field docker"},
		"Docker, privileged":         {docker(`, "privileged": true`), "docker.privileged"},
		"Docker's parameters":        {docker(`, "parameters": [{"key": "cap-add", "value": "ALL"}]`), "docker.parameters"},
		"Docker's bridge":            {docker(`, "network": "BRIDGE"`), "docker.network BRIDGE"},
		"Docker's ports":             {docker(`, "port_mappings": [{"host_port": 1, "container_port": 2}]`), "docker.port_mappings"},
		"pulled whatever there is":   {docker(`, "force_pull_image": true`), "docker.force_pull_image"},
		"an image that is no name":   {`, "container": {"type": "DOCKER", "docker": {"image": "a b"}}` + sleep, "is not a reference"},
		"a variable that is no name": {`, "command": {"value": "x", "environment": {"variables": [{"name": "A=B"}]}}`, "not a name of an environment variable"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := specification(&fleet.FrameworkInfo{}, readTask(t, tt.fields), DefaultImage); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("it is %+v (%v), want %q", got, err, tt.says)
			}
		})
	}
}

func TestTaskIDs(t *testing.T) {
	for foreign, want := range map[string]string{
		"Web/1":                   "web-1-",
		"ünïcode":                 "n-code-",
		"":                        "task-",
		"///":                     "task-",
		strings.Repeat("a", 1000): strings.Repeat("a", 50) + "-",
	} {
		id := string(taskID("f", foreign))
		if err := fleet.CheckID("task", id); err != nil || !strings.HasPrefix(id, want) || len(id) != len(want)+12 {
			t.Errorf("%.20q became %s (%v), want %s and 12 digits", foreign, id, err, want)
		}
		if taskID("f", foreign) != fleet.TaskID(id) || taskID("g", foreign) == fleet.TaskID(id) || taskID("f", foreign+"/") == fleet.TaskID(id) {
			t.Errorf("%.20q: the id says not which task it is", foreign)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		if err := fleet.CheckID("task", string(taskID("f", rapid.String().Draw(t, "foreign")))); err != nil {
			t.Error(err)
		}
	})
}

func TestFilters(t *testing.T) {
	if got := filtersOf(nil); got != nil {
		t.Errorf("no filters are %v", got)
	}
	for _, tt := range []struct {
		in   *pb.Filters
		want time.Duration
	}{
		{&pb.Filters{}, 5 * time.Second},
		{&pb.Filters{RefuseSeconds: new(0.0)}, 0},
		{&pb.Filters{RefuseSeconds: new(0.25)}, 250 * time.Millisecond},
		{&pb.Filters{RefuseSeconds: new(-1.0)}, 5 * time.Second},
		{&pb.Filters{RefuseSeconds: new(math.NaN())}, 5 * time.Second},
		{&pb.Filters{RefuseSeconds: new(math.Inf(1))}, 365 * 24 * time.Hour},
		{&pb.Filters{RefuseSeconds: new(1e9)}, 365 * 24 * time.Hour},
	} {
		if got := filtersOf(tt.in); got == nil || got.Refuse != tt.want {
			t.Errorf("%v is %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestChecksLimitsAndTime(t *testing.T) {
	got, err := specification(&fleet.FrameworkInfo{}, readTask(t, `, "command": {"value": "serve"},
		"health_check": {"type": "HTTP", "http": {"port": 8080, "path": "/ok", "statuses": [200, 204]}, "grace_period_seconds": 2.5, "consecutive_failures": 0, "timeout_seconds": 0},
		"check": {"type": "COMMAND", "command": {"command": {"value": "test -e /ready", "environment": {"variables": [{"name": "A", "value": "b"}]}}}, "interval_seconds": 1},
		"max_completion_time": {"nanoseconds": 90000000000},
		"limits": {"cpus": {"value": "Infinity"}, "mem": {"value": 512}}`), DefaultImage)
	if err != nil {
		t.Fatal(err)
	}
	health := fleet.Check{
		Kind: fleet.CheckHTTP, Port: 8080, Path: "/ok", Scheme: "", Statuses: []int{200, 204},
		Delay: 15 * time.Second, Interval: 10 * time.Second, Timeout: 24 * time.Hour, Grace: 2500 * time.Millisecond,
		ConsecutiveFailures: 1,
	}
	check := fleet.Check{
		Kind: fleet.CheckCommand, Command: []string{"/bin/sh", "-c", "test -e /ready"}, Env: map[string]string{"A": "b"},
		Delay: 15 * time.Second, Interval: time.Second, Timeout: 20 * time.Second,
	}
	if got.Health == nil || !reflect.DeepEqual(*got.Health, health) {
		t.Errorf("health check %+v, want %+v", got.Health, health)
	}
	if got.Check == nil || !reflect.DeepEqual(*got.Check, check) {
		t.Errorf("check %+v, want %+v", got.Check, check)
	}
	if want := (fleet.Limits{CPUs: fleet.Unlimited, Mem: fleet.Whole(512)}); got.Limits != want || got.MaxCompletion != 90*time.Second {
		t.Errorf("limits %+v, at most %v", got.Limits, got.MaxCompletion)
	}
}

// Whatever an ACCEPT says, each of its tasks becomes one launch that is either
// invalid or sound.
func TestAnyAcceptanceIsTranslated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		call := maker{t: t, nan: true}.message(&pb.Call_Accept{}).(*pb.Call_Accept)
		offered := fleet.Offer{Agent: "a", Resources: drawResources(t, 1)}
		a := acceptance{info: &fleet.FrameworkInfo{ID: "f", Principal: "framework/p"}, image: DefaultImage}
		a.use([]*fleet.Offer{&offered})
		var launches []fleet.Launch
		for _, op := range a.operations(call.GetOperations()) {
			launches = append(launches, op.Launch...)
			if c := op.Convert; c != nil && (!c.From.Total().Equal(c.To.Total()) || fleet.CheckResources(c.To) != nil) {
				t.Errorf("%s is converted to %s", c.From, c.To)
			}
		}
		var want []string
		for _, op := range call.GetOperations() {
			switch op.GetType() {
			case pb.Offer_Operation_LAUNCH:
				for _, task := range op.GetLaunch().GetTaskInfos() {
					want = append(want, task.GetTaskId().GetValue())
				}
			case pb.Offer_Operation_LAUNCH_GROUP:
				for _, task := range op.GetLaunchGroup().GetTaskGroup().GetTasks() {
					want = append(want, task.GetTaskId().GetValue())
				}
			default:
			}
		}
		var got []string
		for _, l := range launches {
			got = append(got, l.Foreign)
			if l.Invalid != "" {
				continue
			}
			if err := fleet.CheckSpec(l.Spec); err != nil {
				t.Errorf("task %q: %v", l.Foreign, err)
			}
			if err := fleet.CheckResources(l.Resources); err != nil {
				t.Errorf("task %q: %v", l.Foreign, err)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("launched %q of %q", got, want)
		}
	})
}

func TestReservationsAreMadeAndEnded(t *testing.T) {
	offered := fleet.Offer{Agent: "a", Resources: fleet.Resources{CPUs: 4000, Mem: 64000}.Add(drawnGPUs("g1", "g2"))}
	reserve := func(r *pb.Resource) {
		r.Reservations = []*pb.Resource_ReservationInfo{{Role: new("x"), Type: pb.Resource_ReservationInfo_DYNAMIC.Enum(), Principal: new("p")}}
	}
	a := acceptance{info: &fleet.FrameworkInfo{ID: "f", Principal: "framework/p"}}
	a.use([]*fleet.Offer{&offered})
	list := []*pb.Resource{res("cpus", 1, reserve), res("gpus", 1, reserve)}
	ops := a.operations([]*pb.Offer_Operation{
		{Type: pb.Offer_Operation_RESERVE.Enum(), Reserve: &pb.Offer_Operation_Reserve{Resources: list}},
		{Type: pb.Offer_Operation_UNRESERVE.Enum(), Unreserve: &pb.Offer_Operation_Unreserve{Resources: list}},
	})
	said := func(c *leader.Conversion) string { return c.From.String() + " -> " + c.To.String() }
	if len(ops) != 2 || said(ops[0].Convert) != "cpus:1;gpus:[g1] -> cpus(x):1;gpus(x):[g1]" || said(ops[1].Convert) != "cpus(x):1;gpus(x):[g1] -> cpus:1;gpus:[g1]" {
		t.Errorf("the operations are %+v", ops)
	}
	if !a.left.Equal(offered.Resources) {
		t.Errorf("what is left is %s", a.left)
	}
	for name, op := range map[string]*pb.Offer_Operation{
		"more than is offered": {Type: pb.Offer_Operation_RESERVE.Enum(), Reserve: &pb.Offer_Operation_Reserve{Resources: []*pb.Resource{res("cpus", 5, reserve)}}},
		"for another's principal": {Type: pb.Offer_Operation_RESERVE.Enum(), Reserve: &pb.Offer_Operation_Reserve{Resources: []*pb.Resource{res("cpus", 1, func(r *pb.Resource) {
			r.Role, r.Reservation = new("x"), &pb.Resource_ReservationInfo{Principal: new("q")}
		})}}},
		"what is not reserved": {Type: pb.Offer_Operation_UNRESERVE.Enum(), Unreserve: &pb.Offer_Operation_Unreserve{Resources: []*pb.Resource{res("cpus", 1)}}},
		"a volume":             {Type: pb.Offer_Operation_CREATE.Enum(), Create: &pb.Offer_Operation_Create{}},
		"with feedback":        {Type: pb.Offer_Operation_RESERVE.Enum(), Reserve: &pb.Offer_Operation_Reserve{Resources: list}},
	} {
		op.Id = &pb.OperationID{Value: new("op")}
		a.failed = nil
		if ops := a.operations([]*pb.Offer_Operation{op}); len(ops) != 0 || len(a.failed) != 1 || a.failed[0].GetState() != pb.OperationState_OPERATION_ERROR || a.failed[0].GetMessage() == "" {
			t.Errorf("%s: it became %+v and %v", name, ops, a.failed)
		}
	}
}
