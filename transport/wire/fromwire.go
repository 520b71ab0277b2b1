package wire

import (
	"time"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire/pb"
)

// fromWire is the inverse of toWire. It takes over maps and byte slices, and
// a missing part is a zero one; check decides whether that is allowed.
func fromWire(e *pb.Envelope) (Message, error) {
	switch b := e.Body.(type) {
	case *pb.Envelope_Hello:
		m := b.Hello
		return Hello{
			Capability: int(m.Capability), Agent: fleet.AgentID(m.Agent), Version: m.Version, Hostname: m.Hostname,
			BootID: m.BootId, Capacity: capacityFrom(m.Capacity), Term: m.Term, Generation: m.Generation, Epoch: m.Epoch,
			BundleVersion: m.BundleVersion, Beat: time.Duration(m.BeatNs),
		}, nil
	case *pb.Envelope_Welcome:
		m := b.Welcome
		return Welcome{
			Capability: int(m.Capability), Term: m.Term, Replica: fleet.ReplicaID(m.Replica), Heartbeat: time.Duration(m.HeartbeatNs),
			BundleVersion: m.BundleVersion, Bundle: m.Bundle, Replicas: m.Replicas,
			Spread: time.Duration(m.SpreadNs),
		}, nil
	case *pb.Envelope_Refusal:
		m := b.Refusal
		return Refusal{Code: RefusalCode(m.Code), Text: m.Text, Leader: m.Leader, RetryAfter: time.Duration(m.RetryAfterNs)}, nil
	case *pb.Envelope_Pull:
		return pullFrom(b.Pull), nil
	case *pb.Envelope_Desired:
		return desiredFrom(b.Desired), nil
	case *pb.Envelope_Report:
		return Report{updatesFrom(b.Report.Updates)}, nil
	case *pb.Envelope_Acks:
		return acksFrom(b.Acks), nil
	case *pb.Envelope_Capacity:
		return CapacityChanged{capacityFrom(b.Capacity)}, nil
	case *pb.Envelope_Readings:
		return Readings{readingsFrom(b.Readings)}, nil
	case *pb.Envelope_Beat:
		return Beat{Every: time.Duration(b.Beat.EveryNs)}, nil
	case *pb.Envelope_Observed:
		return Observed{Addr: b.Observed.Addr}, nil
	case *pb.Envelope_Goaway:
		return Goaway{Text: b.Goaway.Text, Leader: b.Goaway.Leader}, nil
	case *pb.Envelope_RenewRequest:
		return RenewRequest{CSR: b.RenewRequest.Csr, Key: b.RenewRequest.Key, Proof: b.RenewRequest.Proof}, nil
	case *pb.Envelope_Certificate:
		m := b.Certificate
		return Certificate{Chain: m.Chain, Bundle: m.Bundle, BundleVersion: m.BundleVersion}, nil
	case *pb.Envelope_LogsRequest:
		m := b.LogsRequest
		return LogsRequest{Task: fleet.TaskID(m.Task), Follow: m.Follow, Tail: int(m.Tail), Stdout: m.Stdout, Stderr: m.Stderr}, nil
	case *pb.Envelope_Leave:
		return Leave{Grace: time.Duration(b.Leave.GraceNs)}, nil
	case *pb.Envelope_Upgrade:
		return Upgrade{upgradeFrom(b.Upgrade)}, nil
	case *pb.Envelope_PackageRequest:
		return PackageRequest{SHA256: b.PackageRequest.Sha256, Offset: b.PackageRequest.Offset}, nil
	case *pb.Envelope_PackageChunk:
		return PackageChunk{Data: b.PackageChunk.Data}, nil
	case *pb.Envelope_LogChunk:
		return LogChunk{Stderr: b.LogChunk.Stderr, Data: b.LogChunk.Data}, nil
	case *pb.Envelope_Bundle:
		return Bundle{Version: b.Bundle.Version, Roots: b.Bundle.Roots, Renew: b.Bundle.Renew}, nil
	case *pb.Envelope_KeyStored:
		return KeyStored{}, nil
	case *pb.Envelope_LogEnd:
		return LogEnd{}, nil
	case *pb.Envelope_Led:
		return Led{Term: b.Led.Term}, nil
	case *pb.Envelope_Ask:
		return Ask{}, nil
	case *pb.Envelope_Relay:
		return relayFrom(b.Relay), nil
	case *pb.Envelope_RelayHello:
		return RelayHello{Capability: int(b.RelayHello.Capability), Replica: fleet.ReplicaID(b.RelayHello.Replica)}, nil
	case *pb.Envelope_RelayWelcome:
		m := b.RelayWelcome
		return RelayWelcome{Capability: int(m.Capability), Term: m.Term, ResetKey: m.ResetKey}, nil
	case *pb.Envelope_Through:
		return Through{Session: b.Through.Session}, nil
	default:
		return nil, ErrUnknownMessage
	}
}

func timeFrom(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func desiredFrom(d *pb.Desired) DesiredSet {
	out := DesiredSet{Part: int(d.Part), More: d.More, Desired: fleet.Desired{Term: d.Term, Generation: d.Generation, Base: d.Base, Full: d.Full, Echo: d.Echo}}
	if len(d.Assignments) > 0 {
		out.Assignments = make([]fleet.Assignment, len(d.Assignments))
	}
	for i, a := range d.Assignments {
		out.Assignments[i] = fleet.Assignment{
			Task: fleet.TaskID(a.Task), Spec: specFrom(a.Spec), Resources: resourcesFrom(a.Resources),
			Seq: a.Seq, Kill: a.Kill, KillGrace: time.Duration(a.KillGraceNs),
		}
	}
	return out
}

func specFrom(s *pb.TaskSpec) fleet.TaskSpec {
	if s == nil {
		return fleet.TaskSpec{}
	}
	return fleet.TaskSpec{
		Name: s.Name, Image: s.Image, Command: s.Command, Env: s.Env, WorkDir: s.WorkDir, User: s.User,
		ReadOnly: s.ReadOnly, Network: fleet.Network(s.Network), PIDs: s.Pids, KillGrace: time.Duration(s.KillGraceNs), Labels: s.Labels,
		Health: checkFrom(s.Health), Check: checkFrom(s.Check), MaxCompletion: time.Duration(s.MaxCompletionNs),
		Limits: limitsFrom(s.Limits), Restart: restartFrom(s.Restart), Disconnect: disconnectFrom(s.Disconnect), Exclusive: s.Exclusive,
	}
}

func updatesFrom(us []*pb.StatusUpdate) []fleet.StatusUpdate {
	if len(us) == 0 {
		return nil
	}
	out := make([]fleet.StatusUpdate, len(us))
	for i, u := range us {
		out[i] = fleet.StatusUpdate{ID: fleet.UpdateID(u.Id), Seq: u.Seq}
		if s := u.Status; s != nil {
			out[i].Status = fleet.Status{
				Task: fleet.TaskID(s.Task), State: fleet.TaskState(s.State), Time: timeFrom(s.TimeNs),
				Message: s.Message, Reason: fleet.Reason(s.Reason),
				ExitCode: int(s.ExitCode), Signal: int(s.Signal), OOM: s.Oom,
				Health: fleet.TaskHealth(s.Health), Check: resultFrom(s.Check), Restarts: int(s.Restarts),
			}
		}
	}
	return out
}

func acksFrom(as *pb.Acks) Acks {
	if len(as.Acks) == 0 {
		return Acks{}
	}
	out := Acks{Acks: make([]Ack, len(as.Acks))}
	for i, a := range as.Acks {
		out.Acks[i] = Ack{Task: fleet.TaskID(a.Task), Update: fleet.UpdateID(a.Update), Generation: a.Generation}
	}
	return out
}

func capacityFrom(c *pb.Capacity) fleet.Capacity {
	if c == nil {
		return fleet.Capacity{}
	}
	out := fleet.Capacity{Total: resourcesFrom(c.Total)}
	if len(c.Devices) > 0 {
		out.Devices = make([]gpu.Device, len(c.Devices))
	}
	for i, d := range c.Devices {
		out.Devices[i] = gpu.Device{
			UUID: gpu.UUID(d.Uuid), Model: d.Model, MemoryMB: d.MemoryMb,
			ComputeMajor: int(d.ComputeMajor), ComputeMinor: int(d.ComputeMinor), Driver: d.Driver,
			Parent: gpu.UUID(d.Parent), Profile: d.Profile, Health: gpu.Health(d.Health), Reason: d.Reason,
		}
	}
	return out
}

func readingsFrom(r *pb.Readings) fleet.Readings {
	out := fleet.Readings{
		Time: timeFrom(r.TimeNs), CPUPercent: int(r.CpuPercent), FreeMemMB: r.FreeMemMb, FreeDiskMB: r.FreeDiskMb,
		Tasks: int(r.Tasks), Spooled: int(r.Spooled), Runtime: r.Runtime, Settings: r.Settings, ClockOff: time.Duration(r.ClockOffNs), Bundle: r.BundleVersion,
	}
	if u := r.Link; u != nil {
		out.Link = fleet.LinkUse{
			Month: u.Month, Keepalive: u.Keepalive, Readings: u.Readings, Updates: u.Updates,
			Images: u.Images, Logs: u.Logs, Budget: u.Budget, State: u.State,
		}
	}
	if u := r.Upgrade; u != nil {
		out.Upgrade = fleet.UpgradeStatus{Rollout: fleet.RolloutID(u.Rollout), Version: u.Version, State: u.State, Text: u.Text}
	}
	if len(r.Gpus) > 0 {
		out.GPUs = make([]gpu.Reading, len(r.Gpus))
	}
	for i, g := range r.Gpus {
		out.GPUs[i] = gpu.Reading{
			UUID: gpu.UUID(g.Uuid), UtilPercent: int(g.UtilPercent), MemoryUsedMB: g.MemoryUsedMb,
			TemperatureC: int(g.TemperatureC), PowerMW: g.PowerMw,
		}
	}
	return out
}

func upgradeFrom(u *pb.Upgrade) fleet.Upgrade {
	out := fleet.Upgrade{Rollout: fleet.RolloutID(u.Rollout), Version: u.Version}
	for _, p := range u.Packages {
		out.Packages = append(out.Packages, fleet.Package{Arch: p.Arch, SHA256: p.Sha256, Size: p.Size, Signature: p.Signature})
	}
	return out
}
