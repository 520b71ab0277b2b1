package mesosv1

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// claim is what a framework asks for. It names all but the GPUs, of which
// Mesos has only a number: which ones is decided where it is known what was
// offered (see on).
type claim struct {
	named fleet.Resources
	gpus  []count
}

// count is a number of GPUs of one class.
type count struct {
	class fleet.Class
	n     int
}

// invalidResources is how Mesos begins what it says about a task's resources.
const invalidResources = "Task uses invalid resources: "

// readClaim reads resources in either of Mesos's formats: with the fields role
// and reservation, or with a stack of reservations. The error is text for
// whoever wrote the scheduler.
func readClaim(list []*pb.Resource) (claim, error) {
	var c claim
	for _, r := range list {
		class, err := readClass(r)
		if err == nil {
			err = c.add(class, r)
		}
		if errors.Is(err, fleet.ErrGPUFraction) {
			return claim{}, err
		}
		if err != nil {
			return claim{}, fmt.Errorf("%sInvalid '%.64s' resource: %w", invalidResources, r.GetName(), err)
		}
	}
	if err := fleet.CheckResources(c.named); err != nil {
		return claim{}, fmt.Errorf("%s%w", invalidResources, err)
	}
	return c, nil
}

func (c *claim) add(class fleet.Class, r *pb.Resource) error {
	switch {
	case r.Shared != nil:
		return errors.New("shared resources are not supported")
	case r.ProviderId != nil:
		return errors.New("there are no resource providers")
	case r.Disk != nil && r.GetName() != "disk":
		return errors.New("only a disk has the field disk")
	}
	var flat fleet.Resources
	var err error
	switch {
	case r.GetName() == "ports":
		flat.Ports, err = readPorts(r)
	case r.GetName() == "gpus":
		return c.addGPUs(class, r)
	default:
		flat, err = readAmount(r)
	}
	if err == nil && (len(flat.Mounts) > 0 && c.named.Part(class).Contains(flat)) {
		err = errors.New("the disk is named twice")
	}
	if err != nil {
		return err
	}
	c.named = c.named.Add(flat.In(class))
	return nil
}

func (c *claim) addGPUs(class fleet.Class, r *pb.Resource) error {
	v, err := readScalar(r)
	if err != nil || v%1000 != 0 {
		return fleet.ErrGPUFraction
	}
	if v > fleet.Whole(fleet.MaxGPUs) {
		return fmt.Errorf("no agent has more than %d", fleet.MaxGPUs)
	}
	if v > 0 {
		c.gpus = append(c.gpus, count{class, int(v / 1000)})
	}
	return nil
}

func readAmount(r *pb.Resource) (fleet.Resources, error) {
	v, err := readScalar(r)
	if err != nil {
		return fleet.Resources{}, err
	}
	switch name := r.GetName(); name {
	case "cpus":
		return fleet.Resources{CPUs: v}, nil
	case "mem":
		return fleet.Resources{Mem: v}, nil
	case "disk":
		return readDisk(r, v)
	default:
		if err := fleet.CheckCustomName(name); err != nil {
			return fleet.Resources{}, err
		}
		if v == 0 {
			return fleet.Resources{}, nil
		}
		return fleet.Resources{Custom: []fleet.Amount{{Name: name, Amount: v}}}, nil
	}
}

// readScalar rounds to thousandths, as Mesos does.
func readScalar(r *pb.Resource) (fleet.Scalar, error) {
	if r.GetType() != pb.Value_SCALAR || r.Scalar == nil {
		return 0, errors.New("it is not a scalar")
	}
	return thousandths(r.GetScalar().GetValue())
}

func thousandths(v float64) (fleet.Scalar, error) {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return 0, fmt.Errorf("%v is not a number of zero or more", v)
	case v < 0:
		return 0, fmt.Errorf("%v is less than zero", v)
	case v > float64(fleet.MaxScalar)/1000:
		return 0, fmt.Errorf("%v is out of range", v)
	}
	return fleet.Scalar(math.Round(v * 1000)), nil
}

func readDisk(r *pb.Resource, v fleet.Scalar) (fleet.Resources, error) {
	d := r.GetDisk()
	if d.GetPersistence() != nil || d.GetVolume() != nil {
		return fleet.Resources{}, errors.New("persistent volumes are not supported")
	}
	if d.GetSource() == nil {
		return fleet.Resources{Disk: v}, nil
	}
	id := d.GetSource().GetMount().GetRoot()
	if id == "" {
		id = d.GetSource().GetId()
	}
	switch {
	case d.GetSource().GetType() != pb.Resource_DiskInfo_Source_MOUNT:
		return fleet.Resources{}, fmt.Errorf("disks of type %s are not supported", d.GetSource().GetType())
	case id == "":
		return fleet.Resources{}, errors.New("the disk has neither source.mount.root nor source.id")
	}
	return fleet.Resources{Mounts: []fleet.Mount{{ID: id, Size: v}}}, nil
}

func readPorts(r *pb.Resource) (fleet.Ranges, error) {
	if r.GetType() != pb.Value_RANGES || r.Ranges == nil {
		return nil, errors.New("ports are ranges")
	}
	var in []fleet.Range
	for _, p := range r.GetRanges().GetRange() {
		if p.GetEnd() > math.MaxUint16 || p.GetBegin() > p.GetEnd() {
			return nil, fmt.Errorf("%d-%d is no range of ports", p.GetBegin(), p.GetEnd())
		}
		in = append(in, fleet.Range{First: uint16(p.GetBegin()), Last: uint16(p.GetEnd())})
	}
	return fleet.NewRanges(in...)
}

func readClass(r *pb.Resource) (fleet.Class, error) {
	c := fleet.Class{Revocable: r.Revocable != nil}
	role := fleet.Role(r.GetRole())
	old := r.Reservation != nil || role != fleet.DefaultRole
	switch stack := r.GetReservations(); {
	case len(stack) > 0 && old:
		return c, errors.New("it has both the fields role or reservation and reservations")
	case len(stack) > 0:
		for _, v := range stack {
			if v.GetType() == pb.Resource_ReservationInfo_UNKNOWN || v.Role == nil {
				return c, errors.New("a reservation has no type or no role")
			}
			c.Reserved = append(c.Reserved, readReservation(v, fleet.Role(v.GetRole()), v.GetType() == pb.Resource_ReservationInfo_DYNAMIC))
		}
	case old:
		c.Reserved = []fleet.Reservation{readReservation(r.GetReservation(), role, r.Reservation != nil)}
	}
	return c, nil
}

func readReservation(v *pb.Resource_ReservationInfo, role fleet.Role, dynamic bool) fleet.Reservation {
	return fleet.Reservation{Role: role, Dynamic: dynamic, Principal: v.GetPrincipal(), Labels: readLabels(v.GetLabels())}
}

func readLabels(in *pb.Labels) []fleet.Label {
	var out []fleet.Label
	for _, l := range in.GetLabels() {
		out = append(out, fleet.Label{Key: l.GetKey(), Value: l.GetValue()})
	}
	return out
}

// on takes the claim's GPUs out of what is there: of each class the first ones
// in the order of their UUIDs, so that a scheduler can tell beforehand.
func (c claim) on(left fleet.Resources) (fleet.Resources, error) {
	got := c.named
	for _, g := range c.gpus {
		var free []gpu.UUID
		for _, id := range left.Part(g.class).GPUs {
			if !slices.Contains(got.Part(g.class).GPUs, id) {
				free = append(free, id)
			}
		}
		if len(free) < g.n {
			return fleet.Resources{}, fmt.Errorf("the task uses more than was offered: gpus%s:%d of %d", g.class, g.n, len(free))
		}
		got = got.Add(fleet.Resources{GPUs: free[:g.n]}.In(g.class))
	}
	return got, nil
}

// format is how resources are written for one framework.
type format struct {
	// role is whom they are allocated to.
	role fleet.Role
	// refined: reservations are a stack (RESERVATION_REFINEMENT). Others get the
	// fields role and reservation, which hold one level.
	refined bool
}

// resources writes what an offer holds, GPUs as a number.
func (f format) resources(r fleet.Resources) []*pb.Resource {
	out := f.class(nil, fleet.Class{}, r.Flat())
	for _, p := range r.Parts {
		out = f.class(out, p.Class, p.Resources)
	}
	return out
}

func (f format) class(out []*pb.Resource, c fleet.Class, r fleet.Resources) []*pb.Resource {
	add := func(name string, t pb.Value_Type) *pb.Resource {
		n := &pb.Resource{Name: &name, Type: &t}
		if f.role != "" {
			n.AllocationInfo = &pb.Resource_AllocationInfo{Role: new(string(f.role))}
		}
		if c.Revocable {
			n.Revocable = &pb.Resource_RevocableInfo{}
		}
		f.reserve(n, c.Reserved)
		out = append(out, n)
		return n
	}
	amount := func(name string, v fleet.Scalar) *pb.Resource {
		n := add(name, pb.Value_SCALAR)
		n.Scalar = amountOf(v)
		return n
	}
	for _, a := range []fleet.Amount{{Name: "cpus", Amount: r.CPUs}, {Name: "mem", Amount: r.Mem}, {Name: "disk", Amount: r.Disk}} {
		if a.Amount != 0 {
			amount(a.Name, a.Amount)
		}
	}
	for _, m := range r.Mounts {
		amount("disk", m.Size).Disk = &pb.Resource_DiskInfo{Source: mountSource(m.ID)}
	}
	if n := len(r.GPUs); n > 0 {
		amount("gpus", fleet.Whole(int64(n)))
	}
	if len(r.Ports) > 0 {
		n := add("ports", pb.Value_RANGES)
		n.Ranges = &pb.Value_Ranges{}
		for _, p := range r.Ports {
			n.Ranges.Range = append(n.Ranges.Range, &pb.Value_Range{Begin: new(uint64(p.First)), End: new(uint64(p.Last))})
		}
	}
	for _, a := range r.Custom {
		amount(a.Name, a.Amount)
	}
	return out
}

// mountSource: an id that is a path is where the disk is mounted.
func mountSource(id string) *pb.Resource_DiskInfo_Source {
	s := &pb.Resource_DiskInfo_Source{Type: pb.Resource_DiskInfo_Source_MOUNT.Enum()}
	if id != "" && id[0] == '/' {
		s.Mount = &pb.Resource_DiskInfo_Source_Mount{Root: &id}
	} else {
		s.Id = &id
	}
	return s
}

func (f format) reserve(n *pb.Resource, stack []fleet.Reservation) {
	if !f.refined && len(stack) < 2 {
		n.Role = new(string(fleet.DefaultRole))
		if len(stack) == 1 {
			n.Role = new(string(stack[0].Role))
			if stack[0].Dynamic {
				n.Reservation = reservation(stack[0])
			}
		}
		return
	}
	for _, r := range stack {
		info := reservation(r)
		info.Role, info.Type = new(string(r.Role)), pb.Resource_ReservationInfo_STATIC.Enum()
		if r.Dynamic {
			info.Type = pb.Resource_ReservationInfo_DYNAMIC.Enum()
		}
		n.Reservations = append(n.Reservations, info)
	}
}

func reservation(r fleet.Reservation) *pb.Resource_ReservationInfo {
	info := &pb.Resource_ReservationInfo{}
	if r.Principal != "" {
		info.Principal = &r.Principal
	}
	for _, l := range r.Labels {
		if info.Labels == nil {
			info.Labels = &pb.Labels{}
		}
		info.Labels.Labels = append(info.Labels.Labels, &pb.Label{Key: &l.Key, Value: &l.Value})
	}
	return info
}

func amountOf(v fleet.Scalar) *pb.Value_Scalar {
	return &pb.Value_Scalar{Value: new(float64(v) / 1000)}
}
