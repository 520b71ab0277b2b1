package mesosv1

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

func drawScalar(t *rapid.T, name string) fleet.Scalar {
	return fleet.Scalar(rapid.Int64Range(0, int64(fleet.MaxScalar)).Draw(t, name))
}

// drawFlat draws resources without parts, whose GPUs begin with a prefix.
func drawFlat(t *rapid.T, prefix string) fleet.Resources {
	r := fleet.Resources{CPUs: drawScalar(t, "cpus"), Mem: drawScalar(t, "mem"), Disk: drawScalar(t, "disk")}
	for i := range rapid.IntRange(0, 4).Draw(t, "gpus") {
		r.GPUs = append(r.GPUs, gpu.UUID(fmt.Sprintf("GPU-%s-%d", prefix, i)))
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "ranges") {
		first := uint16(i*20000 + rapid.IntRange(0, 9000).Draw(t, "first"))
		r.Ports = append(r.Ports, fleet.Range{First: first, Last: first + uint16(rapid.IntRange(0, 9000).Draw(t, "length"))})
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "mounts") {
		id := rapid.SampledFrom([]string{"/mnt/%d", "disk-%d"}).Draw(t, "id")
		r = r.Add(fleet.Resources{Mounts: []fleet.Mount{{ID: fmt.Sprintf(id, i), Size: 1 + drawScalar(t, "size")/2}}})
	}
	for _, name := range []string{"bandwidth", "licences"} {
		if n := drawScalar(t, name); n > 0 && rapid.Bool().Draw(t, "has") {
			r.Custom = append(r.Custom, fleet.Amount{Name: name, Amount: n})
		}
	}
	return r
}

func drawResources(t *rapid.T, levels int) fleet.Resources {
	r := drawFlat(t, "free")
	for i := range rapid.IntRange(0, 3).Draw(t, "parts") {
		c := fleet.Class{Revocable: rapid.Bool().Draw(t, "revocable")}
		role := fmt.Sprintf("r%d", i)
		for range rapid.IntRange(0, levels).Draw(t, "levels") {
			v := fleet.Reservation{Role: fleet.Role(role), Dynamic: rapid.Bool().Draw(t, "dynamic")}
			if v.Dynamic && rapid.Bool().Draw(t, "made by") {
				v.Principal, v.Labels = "p", []fleet.Label{{Key: "k", Value: "v"}}
			}
			c.Reserved = append(c.Reserved, v)
			role += "/sub"
		}
		if len(c.Reserved) > 0 || c.Revocable {
			r = r.Add(drawFlat(t, fmt.Sprint(i)).In(c))
		}
	}
	return r
}

// What is written for a framework and read again, with GPUs taken from the
// same, is the same.
func TestResourcesThereAndBack(t *testing.T) {
	for name, tt := range map[string]struct {
		f      format
		levels int
	}{
		"a stack of reservations":     {format{role: "x", refined: true}, 3},
		"the format before the stack": {format{role: "x"}, 1},
		"more than the old one holds": {format{}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				r := drawResources(t, tt.levels)
				if fleet.CheckResources(r) != nil {
					return // two draws added up to more than there can be
				}
				out := tt.f.resources(r)
				for _, enc := range []Encoding{JSON, Protobuf} {
					offer := &pb.Offer{
						Id: offerID("o"), FrameworkId: &pb.FrameworkID{Value: new("f")}, AgentId: agentID("a"), Hostname: new("h"), Resources: out,
					}
					ev := &pb.Event{Type: pb.Event_OFFERS.Enum(), Offers: &pb.Event_Offers{Offers: []*pb.Offer{offer}}}
					text, err := enc.Append(nil, ev)
					if err == nil {
						err = enc.Unmarshal(text, ev)
					}
					if err != nil {
						t.Fatal(err)
					}
					c, err := readClaim(ev.GetOffers().GetOffers()[0].GetResources())
					if err != nil {
						t.Fatal(err)
					}
					got, err := c.on(r)
					if err != nil || !got.Equal(r) {
						t.Fatalf("%s became\n%s (%v)", r, got, err)
					}
				}
			})
		})
	}
}

func res(name string, v float64, change ...func(*pb.Resource)) *pb.Resource {
	r := &pb.Resource{Name: &name, Type: pb.Value_SCALAR.Enum(), Scalar: &pb.Value_Scalar{Value: &v}}
	for _, c := range change {
		c(r)
	}
	return r
}

func ports(first, last uint64) *pb.Resource {
	return &pb.Resource{Name: new("ports"), Type: pb.Value_RANGES.Enum(), Ranges: &pb.Value_Ranges{Range: []*pb.Value_Range{{Begin: &first, End: &last}}}}
}

func TestResourcesAreRead(t *testing.T) {
	one := fleet.Scalar(1000)
	dynamic := func(r *pb.Resource) {
		r.Role, r.Reservation = new("a"), &pb.Resource_ReservationInfo{Principal: new("p")}
	}
	for name, tt := range map[string]struct {
		in   []*pb.Resource
		want string
	}{
		"rounded to thousandths":        {[]*pb.Resource{res("cpus", 0.0004), res("mem", 1.0006)}, "mem:1.001"},
		"added up":                      {[]*pb.Resource{res("cpus", 0.1), res("cpus", 0.2)}, "cpus:0.3"},
		"a static reservation, old":     {[]*pb.Resource{res("cpus", 1, func(r *pb.Resource) { r.Role = new("a") })}, "cpus(a):1"},
		"a dynamic reservation, old":    {[]*pb.Resource{res("cpus", 1, dynamic)}, "cpus(a):1"},
		"revocable":                     {[]*pb.Resource{res("cpus", 1, func(r *pb.Resource) { r.Revocable = &pb.Resource_RevocableInfo{} })}, "cpus{revocable}:1"},
		"one port":                      {[]*pb.Resource{ports(31000, 31000)}, "ports:[31000]"},
		"for whom it is says the offer": {[]*pb.Resource{res("cpus", 1, func(r *pb.Resource) { r.AllocationInfo = &pb.Resource_AllocationInfo{Role: new("x")} })}, "cpus:1"},
		"nothing":                       {[]*pb.Resource{res("cpus", 0), res("bandwidth", 0), res("gpus", 0)}, "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := readClaim(tt.in)
			if err != nil || c.named.String() != tt.want || len(c.gpus) > 0 {
				t.Errorf("it is %s (%v), want %s", c.named, err, tt.want)
			}
		})
	}
	c, err := readClaim([]*pb.Resource{res("cpus", 1, dynamic)})
	if err != nil || len(c.named.Parts) != 1 || c.named.Parts[0].Resources.CPUs != one || !c.named.Parts[0].Class.Reserved[0].Dynamic ||
		c.named.Parts[0].Class.Reserved[0].Principal != "p" {
		t.Errorf("a dynamic reservation is %+v (%v)", c.named, err)
	}
}

func TestResourcesAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		r    *pb.Resource
		says string
	}{
		"negative":              {res("cpus", -1), "Invalid 'cpus' resource: -1 is less than zero"},
		"not a number":          {res("mem", math.NaN()), "'mem' resource: NaN is not a number"},
		"infinite":              {res("mem", math.Inf(1)), "+Inf is not a number"},
		"huge":                  {res("mem", 1e300), "out of range"},
		"a little too much":     {res("mem", float64(fleet.MaxScalar)/1000+1), "out of range"},
		"a part of a GPU":       {res("gpus", 0.1), ""},
		"a negative GPU":        {res("gpus", -1), ""},
		"NaN GPUs":              {res("gpus", math.NaN()), ""},
		"too many GPUs":         {res("gpus", 1e6), "no agent has more than 64"},
		"a set":                 {&pb.Resource{Name: new("x"), Type: pb.Value_SET.Enum(), Set: &pb.Value_Set{}}, "not a scalar"},
		"ports as a number":     {res("ports", 1), "ports are ranges"},
		"ports that end before": {ports(2, 1), "2-1 is no range"},
		"ports that are not":    {ports(1, 70000), "1-70000 is no range"},
		"a name that is none":   {res("Über", 1), "use lower-case"},
		"a volume": {res("disk", 1, func(r *pb.Resource) {
			r.Disk = &pb.Resource_DiskInfo{Persistence: &pb.Resource_DiskInfo_Persistence{Id: new("v")}}
		}), "persistent volumes are not supported"},
		"a raw disk": {res("disk", 1, func(r *pb.Resource) {
			r.Disk = &pb.Resource_DiskInfo{Source: &pb.Resource_DiskInfo_Source{Type: pb.Resource_DiskInfo_Source_RAW.Enum(), Id: new("d")}}
		}), "disks of type RAW"},
		"shared":     {res("cpus", 1, func(r *pb.Resource) { r.Shared = &pb.Resource_SharedInfo{} }), "shared"},
		"a provider": {res("cpus", 1, func(r *pb.Resource) { r.ProviderId = &pb.ResourceProviderID{Value: new("p")} }), "resource providers"},
		"both formats": {res("cpus", 1, func(r *pb.Resource) {
			r.Role, r.Reservations = new("a"), []*pb.Resource_ReservationInfo{{Role: new("a"), Type: pb.Resource_ReservationInfo_STATIC.Enum()}}
		}), "both the fields"},
		"a reservation of no type": {res("cpus", 1, func(r *pb.Resource) {
			r.Reservations = []*pb.Resource_ReservationInfo{{Role: new("a")}}
		}), "no type"},
		"a reservation for everybody": {res("cpus", 1, func(r *pb.Resource) { r.Reservation = &pb.Resource_ReservationInfo{} }), "nothing can be reserved"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readClaim([]*pb.Resource{res("cpus", 1), tt.r})
			switch {
			case err == nil:
				t.Error("it was read")
			case tt.says == "":
				if !errors.Is(err, fleet.ErrGPUFraction) || err.Error() != fleet.GPUFractionText {
					t.Errorf("it says %v", err)
				}
			case !strings.HasPrefix(err.Error(), "Task uses invalid resources: ") || !strings.Contains(err.Error(), tt.says):
				t.Errorf("it says %v", err)
			}
		})
	}
}

func TestGPUsAreTakenInOrder(t *testing.T) {
	offered := fleet.Resources{GPUs: []gpu.UUID{"a", "b", "c"}}.Add(fleet.Resources{GPUs: []gpu.UUID{"x"}}.In(fleet.Class{Revocable: true}))
	a := acceptance{info: &fleet.FrameworkInfo{ID: "f"}, left: offered}
	for i, want := range []string{"gpus:[a,b]", "gpus:[c]", ""} {
		n := []float64{2, 1, 1}[i]
		got, err := a.take([]*pb.Resource{res("gpus", n)})
		if want == "" {
			if err == nil || err.Error() != "the task uses more than was offered: gpus:1 of 0" {
				t.Errorf("the fourth is %s (%v)", got, err)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("got %s (%v), want %s", got, err, want)
		}
		a.left = a.left.Sub(got)
	}
}

func drawnGPUs(ids ...gpu.UUID) fleet.Resources { return fleet.Resources{GPUs: ids} }
