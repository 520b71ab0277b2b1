package wire

import (
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire/pb"
)

func resourcesTo(r fleet.Resources) *pb.Resources {
	out := &pb.Resources{Flat: flatTo(&r)}
	for i := range r.Parts {
		p := &r.Parts[i]
		out.Parts = append(out.Parts, &pb.Part{
			Revocable: p.Class.Revocable, Reserved: convert(p.Class.Reserved, reservationTo), Flat: flatTo(&p.Resources),
		})
	}
	return out
}

func flatTo(r *fleet.Resources) *pb.Flat {
	return &pb.Flat{
		Cpus: int64(r.CPUs), Mem: int64(r.Mem), Disk: int64(r.Disk),
		Gpus: convert(r.GPUs, func(id gpu.UUID) string { return string(id) }),
		Ports: convert(r.Ports, func(p fleet.Range) *pb.PortRange {
			return &pb.PortRange{First: uint32(p.First), Last: uint32(p.Last)}
		}),
		Mounts: convert(r.Mounts, func(m fleet.Mount) *pb.Amount { return &pb.Amount{Name: m.ID, Amount: int64(m.Size)} }),
		Custom: convert(r.Custom, func(a fleet.Amount) *pb.Amount { return &pb.Amount{Name: a.Name, Amount: int64(a.Amount)} }),
	}
}

func reservationTo(r fleet.Reservation) *pb.Reservation {
	return &pb.Reservation{
		Role: string(r.Role), Dynamic: r.Dynamic, Principal: r.Principal,
		Labels: convert(r.Labels, func(l fleet.Label) *pb.Label { return &pb.Label{Key: l.Key, Value: l.Value} }),
	}
}

func resourcesFrom(r *pb.Resources) fleet.Resources {
	out := flatFrom(r.GetFlat())
	for _, p := range r.GetParts() {
		out.Parts = append(out.Parts, fleet.Part{
			Class:     fleet.Class{Revocable: p.Revocable, Reserved: convert(p.Reserved, reservationFrom)},
			Resources: flatFrom(p.Flat),
		})
	}
	return out
}

func flatFrom(r *pb.Flat) fleet.Resources {
	if r == nil {
		return fleet.Resources{}
	}
	return fleet.Resources{
		CPUs: fleet.Scalar(r.Cpus), Mem: fleet.Scalar(r.Mem), Disk: fleet.Scalar(r.Disk),
		GPUs:   convert(r.Gpus, func(id string) gpu.UUID { return gpu.UUID(id) }),
		Ports:  convert(r.Ports, portsFrom),
		Mounts: convert(r.Mounts, func(a *pb.Amount) fleet.Mount { return fleet.Mount{ID: a.Name, Size: fleet.Scalar(a.Amount)} }),
		Custom: convert(r.Custom, func(a *pb.Amount) fleet.Amount {
			return fleet.Amount{Name: a.Name, Amount: fleet.Scalar(a.Amount)}
		}),
	}
}

// portsFrom makes of a number that is no port a range that is refused.
func portsFrom(p *pb.PortRange) fleet.Range {
	if p.First > 0xffff || p.Last > 0xffff {
		return fleet.Range{First: 1, Last: 0}
	}
	return fleet.Range{First: uint16(p.First), Last: uint16(p.Last)}
}

func reservationFrom(r *pb.Reservation) fleet.Reservation {
	return fleet.Reservation{
		Role: fleet.Role(r.Role), Dynamic: r.Dynamic, Principal: r.Principal,
		Labels: convert(r.Labels, func(l *pb.Label) fleet.Label { return fleet.Label{Key: l.Key, Value: l.Value} }),
	}
}

// convert maps a list; an empty one becomes none, as the wire has it.
func convert[S ~[]A, A, B any](in S, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i, x := range in {
		out[i] = f(x)
	}
	return out
}
