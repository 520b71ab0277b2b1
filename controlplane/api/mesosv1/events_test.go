package mesosv1

import (
	"fmt"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/allocator"
	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// see is an action as a framework with capabilities gets it, in JSON.
func see(t *testing.T, act leader.Action, caps ...fleet.Capability) string {
	t.Helper()
	v := view{
		info: &fleet.FrameworkInfo{ID: "f", Capabilities: caps},
		agent: func(fleet.AgentID) *fleet.Agent {
			return &fleet.Agent{Window: &fleet.Unavailability{Start: time.Unix(5, 0), Duration: time.Second}}
		},
		remote: func(fleet.AgentID) string { return "203.0.113.7:4433" },
	}
	ev := v.event(act)
	if ev == nil {
		return ""
	}
	text, err := JSON.Append(nil, ev)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestEventsInJSON(t *testing.T) {
	offer := leader.Offer{Framework: "f", Offers: []fleet.Offer{{
		ID: "o1", Framework: "f", Role: "x", Agent: "a1", Site: "berlin", Hostname: "box", Labels: map[string]string{"rack": "7", "gpu.0.model": "mine"},
		Resources: fleet.Resources{CPUs: 1500, GPUs: []gpu.UUID{"GPU-1"}}.Add(fleet.Resources{Mem: 64000}.In(fleet.Class{Reserved: []fleet.Reservation{{Role: "x", Dynamic: true, Principal: "p"}}})),
		Devices:   []gpu.Device{{UUID: "GPU-1", Model: "NVIDIA L4", MemoryMB: 23034, ComputeMajor: 8, ComputeMinor: 9}},
	}}}
	const allocated = `"allocation_info":{"role":"x"}`
	const attributes = `"attributes":[{"name":"gpu.0.uuid","type":"TEXT","text":{"value":"GPU-1"}},{"name":"gpu.0.model","type":"TEXT","text":{"value":"NVIDIA L4"}},` +
		`{"name":"gpu.0.compute","type":"TEXT","text":{"value":"8.9"}},{"name":"gpu.0.memory","type":"SCALAR","scalar":{"value":23034.0}},` +
		`{"name":"rack","type":"TEXT","text":{"value":"7"}},{"name":"site","type":"TEXT","text":{"value":"berlin"}}]`
	offered := func(cpus, gpus, mem string) string {
		return `{"type":"OFFERS","offers":{"offers":[{"id":{"value":"o1"},"framework_id":{"value":"f"},"agent_id":{"value":"a1"},"hostname":"box",` +
			`"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":1.5},` + cpus + allocated + `},{"name":"gpus","type":"SCALAR","scalar":{"value":1.0},` + gpus + allocated + `},` +
			`{"name":"mem","type":"SCALAR","scalar":{"value":64.0},` + mem + `}],` + attributes +
			`,"url":{"scheme":"http","address":{"hostname":"box","ip":"203.0.113.7","port":0}},"unavailability":{"start":{"nanoseconds":5000000000},"duration":{"nanoseconds":1000000000}},` + allocated + `}]}}`
	}
	for _, tt := range []struct {
		name string
		act  leader.Action
		caps []fleet.Capability
		want string
	}{
		{"an offer", offer, []fleet.Capability{fleet.CapRefinement}, offered("", "", allocated+`,"reservations":[{"principal":"p","role":"x","type":"DYNAMIC"}]`)},
		{"in the old format", offer, nil, offered(`"role":"*",`, `"role":"*",`, `"role":"x","reservation":{"principal":"p"},`+allocated)},
		{"a rescinded one", leader.Rescind{Framework: "f", Offer: "o1"}, nil, `{"type":"RESCIND","rescind":{"offer_id":{"value":"o1"}}}`},
		{
			"an inverse offer",
			leader.InverseOffer{Framework: "f", Offer: "i1", Request: allocator.Request{Agent: "a1", Window: fleet.Unavailability{Start: time.Unix(7, 0)}}},
			nil,
			`{"type":"INVERSE_OFFERS","inverse_offers":{"inverse_offers":[{"id":{"value":"i1"},"framework_id":{"value":"f"},"agent_id":{"value":"a1"},"unavailability":{"start":{"nanoseconds":7000000000}}}]}}`,
		},
		{"taken back", leader.RescindInverse{Framework: "f", Offer: "i1"}, nil, `{"type":"RESCIND_INVERSE_OFFER","rescind_inverse_offer":{"inverse_offer_id":{"value":"i1"}}}`},
		{"a lost agent", leader.Failure{Framework: "f", Agent: "a1"}, nil, `{"type":"FAILURE","failure":{"agent_id":{"value":"a1"}}}`},
		{"an end", leader.Dismiss{Framework: "f", Text: "over"}, nil, `{"type":"ERROR","error":{"message":"over"}}`},
		{"an update", leader.Update{
			Framework: "f", Foreign: "t/1", Agent: "a1", ID: "000102030405060708090a0b0c0d0e0f",
			Status: fleet.Status{Task: "t-1-abc", State: fleet.TaskFailed, Time: time.Unix(3, 500_000_000), Message: "exit 1\xff", Reason: fleet.ReasonCommandFailed},
		}, nil, `{"type":"UPDATE","update":{"status":{"task_id":{"value":"t/1"},"state":"TASK_FAILED","message":"exit 1?","agent_id":{"value":"a1"},"timestamp":3.5,` +
			`"executor_id":{"value":"t/1"},"source":"SOURCE_EXECUTOR","reason":"REASON_COMMAND_EXECUTOR_FAILED","uuid":"AAECAwQFBgcICQoLDA0ODw==","container_status":{"container_id":{"value":"t-1-abc"}}}}}`},
		{"an update of the agent's own", leader.Update{
			Foreign: "t", Agent: "a1", ID: "000102030405060708090a0b0c0d0e0f", Status: fleet.Status{Task: "t-1", State: fleet.TaskFailed, Time: time.Unix(1, 0), Reason: fleet.ReasonLaunchFailed},
		}, nil, `{"type":"UPDATE","update":{"status":{"task_id":{"value":"t"},"state":"TASK_FAILED","agent_id":{"value":"a1"},"timestamp":1.0,` +
			`"executor_id":{"value":"t"},"source":"SOURCE_AGENT","reason":"REASON_CONTAINER_LAUNCH_FAILED","uuid":"AAECAwQFBgcICQoLDA0ODw==","container_status":{"container_id":{"value":"t-1"}}}}}`},
		{"what the control plane says", leader.Update{
			Foreign: "t", Agent: "a1", Unreachable: time.Unix(9, 0), Status: fleet.Status{Task: "t-1", State: fleet.TaskUnreachable, Time: time.Unix(1, 0)},
		}, []fleet.Capability{fleet.CapPartitionAware}, `{"type":"UPDATE","update":{"status":{"task_id":{"value":"t"},"state":"TASK_UNREACHABLE","agent_id":{"value":"a1"},"timestamp":1.0,` +
			`"executor_id":{"value":"t"},"source":"SOURCE_MASTER","unreachable_time":{"nanoseconds":9000000000}}}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := see(t, tt.act, tt.caps...); got != tt.want {
				t.Errorf("it is\n%s, want\n%s", got, tt.want)
			}
		})
	}
}

// What a framework does not understand it is told in words that it does, or
// not at all.
func TestStatesByCapability(t *testing.T) {
	for s := fleet.TaskStaging; s <= fleet.TaskUnknown; s++ {
		for _, caps := range [][]fleet.Capability{nil, {fleet.CapPartitionAware, fleet.CapKillingState}} {
			want := s.String()
			switch {
			case s == fleet.TaskStaging, s == fleet.TaskKilling && caps == nil:
				want = ""
			case caps == nil && (s == fleet.TaskDropped || s == fleet.TaskUnreachable || s == fleet.TaskGone || s == fleet.TaskGoneByOperator || s == fleet.TaskUnknown):
				want = "TASK_LOST"
			}
			v := view{info: &fleet.FrameworkInfo{Capabilities: caps}}
			ev := v.event(leader.Update{Status: fleet.Status{State: s}})
			got := ""
			if ev != nil {
				got = ev.GetUpdate().GetStatus().GetState().String()
			}
			if got != want {
				t.Errorf("%s with %v is told as %q, want %q", s, caps, got, want)
			}
		}
	}
	// Every reason that the fleet gives has a word in Mesos.
	for _, r := range []fleet.Reason{
		fleet.ReasonInvalidOffers, fleet.ReasonTaskInvalid, fleet.ReasonReconciliation, fleet.ReasonMemoryLimit, fleet.ReasonLaunchFailed,
		fleet.ReasonAgentLost, fleet.ReasonAgentRemoved, fleet.ReasonCommandFailed, fleet.ReasonGroupInvalid, fleet.ReasonRemoved,
	} {
		if _, ok := pb.TaskStatus_Reason_value["REASON_"+string(r)]; !ok {
			t.Errorf("Mesos does not know the reason %s", r)
		}
	}
}

func testStream() *stream {
	s, _ := NewHub(nil, nil).open(fleet.FrameworkInfo{ID: "f"})
	return s
}

func TestAStreamCoalesces(t *testing.T) {
	s := testStream()
	offer := func(ids ...fleet.OfferID) leader.Offer {
		var o leader.Offer
		for _, id := range ids {
			o.Offers = append(o.Offers, fleet.Offer{ID: id})
		}
		return o
	}
	update := leader.Update{ID: "u1"}
	for _, act := range []leader.Action{
		offer("o1"), offer("o2", "o3"), leader.Rescind{Offer: "o2"}, update, update, leader.Update{}, leader.Update{}, offer("o4"), leader.Rescind{Offer: "o4"},
	} {
		s.push(item{act: act})
	}
	items, ended, _ := s.take()
	if got := fmt.Sprint(len(items), len(items[0].act.(leader.Offer).Offers), ended); got != "4 2 false" {
		t.Errorf("items, offers in the first, ended: %s", got)
	}
	// Once written, an offer has to be taken back aloud.
	s.push(item{act: leader.Rescind{Offer: "o1"}})
	s.push(item{act: update})
	s.push(item{act: leader.Dismiss{Text: "over"}})
	s.push(item{act: update})
	if items, ended, _ := s.take(); len(items) != 3 || !ended {
		t.Errorf("then there are %d items, ended %t", len(items), ended)
	}
	if known := s.use([]*pb.OfferID{offerID("o1"), offerID("o3"), offerID("o3")}); known[0] != nil || known[1] == nil {
		t.Errorf("the offers that are out are %v", known)
	}
	if known := s.use([]*pb.OfferID{offerID("o3")}); known[0] != nil {
		t.Error("an offer can be used twice")
	}
}

// A scheduler that does not read costs a bounded amount of memory.
func TestAStreamEndsWhenNobodyReads(t *testing.T) {
	s := testStream()
	for i := range 2 * maxQueue {
		s.push(item{act: leader.Update{ID: fleet.UpdateID(fmt.Sprint(i))}})
		if len(s.queue) > maxQueue+1 {
			t.Fatalf("%d items wait", len(s.queue))
		}
	}
	if items, ended, slow := s.take(); len(items) > 0 || !ended || !slow {
		t.Errorf("%d items, ended %t, slow %t", len(items), ended, slow)
	}
}
