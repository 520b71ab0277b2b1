package wire

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire/pb"
)

// toWire shares maps and byte slices with m; the envelope lives only until it
// is serialised.
func toWire(m Message) (*pb.Envelope, error) {
	e := &pb.Envelope{}
	switch m := m.(type) {
	case Hello:
		e.Body = &pb.Envelope_Hello{Hello: &pb.Hello{
			Capability: int64(m.Capability), Agent: string(m.Agent), Version: text(m.Version, MaxName),
			Hostname: text(m.Hostname, MaxName), BootId: text(m.BootID, MaxName),
			Capacity: capacityTo(m.Capacity), Term: m.Term, Generation: m.Generation, Epoch: m.Epoch,
			BundleVersion: m.BundleVersion, BeatNs: int64(m.Beat),
		}}
	case Welcome:
		e.Body = &pb.Envelope_Welcome{Welcome: &pb.Welcome{
			Capability: int64(m.Capability), Term: m.Term, Replica: string(m.Replica), HeartbeatNs: int64(m.Heartbeat),
			BundleVersion: m.BundleVersion, Bundle: m.Bundle, Replicas: m.Replicas,
			SpreadNs: int64(m.Spread),
		}}
	case Refusal:
		e.Body = &pb.Envelope_Refusal{Refusal: &pb.Refusal{
			Code: string(m.Code), Text: text(m.Text, MaxText), Leader: m.Leader, RetryAfterNs: int64(m.RetryAfter),
		}}
	case Pull:
		e.Body = &pb.Envelope_Pull{Pull: pullTo(m)}
	case DesiredSet:
		e.Body = &pb.Envelope_Desired{Desired: desiredTo(m)}
	case Report:
		e.Body = &pb.Envelope_Report{Report: &pb.Report{Updates: updatesTo(m.Updates)}}
	case Acks:
		e.Body = &pb.Envelope_Acks{Acks: acksTo(m.Acks)}
	case CapacityChanged:
		e.Body = &pb.Envelope_Capacity{Capacity: capacityTo(m.Capacity)}
	case Readings:
		e.Body = &pb.Envelope_Readings{Readings: readingsTo(m.Readings)}
	case Beat:
		e.Body = &pb.Envelope_Beat{Beat: &pb.Beat{EveryNs: int64(m.Every)}}
	case Observed:
		e.Body = &pb.Envelope_Observed{Observed: &pb.Observed{Addr: m.Addr}}
	case Goaway:
		e.Body = &pb.Envelope_Goaway{Goaway: &pb.Goaway{Text: text(m.Text, MaxText), Leader: m.Leader}}
	case RenewRequest:
		e.Body = &pb.Envelope_RenewRequest{RenewRequest: &pb.RenewRequest{Csr: m.CSR, Key: m.Key, Proof: m.Proof}}
	case Certificate:
		e.Body = &pb.Envelope_Certificate{Certificate: &pb.Certificate{
			Chain: m.Chain, Bundle: m.Bundle, BundleVersion: m.BundleVersion,
		}}
	case LogsRequest:
		e.Body = &pb.Envelope_LogsRequest{LogsRequest: &pb.LogsRequest{
			Task: string(m.Task), Follow: m.Follow, Tail: int64(m.Tail), Stdout: m.Stdout, Stderr: m.Stderr,
		}}
	case Leave:
		e.Body = &pb.Envelope_Leave{Leave: &pb.Leave{GraceNs: int64(m.Grace)}}
	case Upgrade:
		e.Body = &pb.Envelope_Upgrade{Upgrade: upgradeTo(m.Upgrade)}
	case PackageRequest:
		e.Body = &pb.Envelope_PackageRequest{PackageRequest: &pb.PackageRequest{Sha256: m.SHA256, Offset: m.Offset}}
	case PackageChunk:
		e.Body = &pb.Envelope_PackageChunk{PackageChunk: &pb.PackageChunk{Data: m.Data}}
	case LogChunk:
		e.Body = &pb.Envelope_LogChunk{LogChunk: &pb.LogChunk{Stderr: m.Stderr, Data: m.Data}}
	case Bundle:
		e.Body = &pb.Envelope_Bundle{Bundle: &pb.Bundle{Version: m.Version, Roots: m.Roots, Renew: m.Renew}}
	case KeyStored:
		e.Body = &pb.Envelope_KeyStored{KeyStored: &pb.KeyStored{}}
	case LogEnd:
		e.Body = &pb.Envelope_LogEnd{LogEnd: &pb.LogEnd{}}
	case Led:
		e.Body = &pb.Envelope_Led{Led: &pb.Led{Term: m.Term}}
	case Ask:
		e.Body = &pb.Envelope_Ask{Ask: &pb.Ask{}}
	case Relay:
		e.Body = &pb.Envelope_Relay{Relay: relayTo(m)}
	case RelayHello:
		e.Body = &pb.Envelope_RelayHello{RelayHello: &pb.RelayHello{Capability: int64(m.Capability), Replica: string(m.Replica)}}
	case RelayWelcome:
		e.Body = &pb.Envelope_RelayWelcome{RelayWelcome: &pb.RelayWelcome{
			Capability: int64(m.Capability), Term: m.Term, ResetKey: m.ResetKey,
		}}
	case Through:
		e.Body = &pb.Envelope_Through{Through: &pb.Through{Session: m.Session}}
	default:
		return nil, fmt.Errorf("%w: %T is not sent by value", ErrInvalid, m)
	}
	return e, nil
}

// text makes free text fit for the wire: a driver's or a program's words must
// never be the reason that a report cannot be sent.
func text(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// unixNano is 0 for the zero time, which Go's UnixNano does not define.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func desiredTo(d DesiredSet) *pb.Desired {
	out := &pb.Desired{
		Part: int64(d.Part), More: d.More,
		Term: d.Term, Generation: d.Generation, Base: d.Base, Full: d.Full, Echo: d.Echo,
		Assignments: make([]*pb.Assignment, len(d.Assignments)),
	}
	for i := range d.Assignments {
		a := &d.Assignments[i]
		out.Assignments[i] = &pb.Assignment{
			Task: string(a.Task), Spec: specTo(&a.Spec), Resources: resourcesTo(a.Resources),
			Seq: a.Seq, Kill: a.Kill, KillGraceNs: int64(a.KillGrace),
		}
	}
	return out
}

func specTo(s *fleet.TaskSpec) *pb.TaskSpec {
	return &pb.TaskSpec{
		Name: s.Name, Image: s.Image, Command: s.Command, Env: s.Env, WorkDir: s.WorkDir, User: s.User,
		ReadOnly: s.ReadOnly, Network: string(s.Network), Pids: s.PIDs, KillGraceNs: int64(s.KillGrace), Labels: s.Labels,
		Health: checkTo(s.Health), Check: checkTo(s.Check), MaxCompletionNs: int64(s.MaxCompletion),
		Limits: limitsTo(s.Limits), Restart: restartTo(s.Restart), Disconnect: disconnectTo(s.Disconnect), Exclusive: s.Exclusive,
	}
}

func updatesTo(us []fleet.StatusUpdate) []*pb.StatusUpdate {
	out := make([]*pb.StatusUpdate, len(us))
	for i := range us {
		u := &us[i]
		out[i] = &pb.StatusUpdate{Id: string(u.ID), Seq: u.Seq, Status: &pb.Status{
			Task: string(u.Status.Task), State: pb.TaskState(u.Status.State), TimeNs: unixNano(u.Status.Time),
			Message: text(u.Status.Message, MaxText), Reason: string(u.Status.Reason),
			ExitCode: int64(u.Status.ExitCode), Signal: int64(u.Status.Signal), Oom: u.Status.OOM,
			Health: pb.TaskHealth(u.Status.Health), Check: resultTo(u.Status.Check), Restarts: int64(u.Status.Restarts),
		}}
	}
	return out
}

func acksTo(as []Ack) *pb.Acks {
	out := &pb.Acks{Acks: make([]*pb.Ack, len(as))}
	for i, a := range as {
		out.Acks[i] = &pb.Ack{Task: string(a.Task), Update: string(a.Update), Generation: a.Generation}
	}
	return out
}

func capacityTo(c fleet.Capacity) *pb.Capacity {
	out := &pb.Capacity{Total: resourcesTo(c.Total), Devices: make([]*pb.Device, len(c.Devices))}
	for i := range c.Devices {
		out.Devices[i] = deviceTo(&c.Devices[i])
	}
	return out
}

func deviceTo(d *gpu.Device) *pb.Device {
	return &pb.Device{
		Uuid: string(d.UUID), Model: text(d.Model, MaxName), MemoryMb: d.MemoryMB,
		ComputeMajor: int64(d.ComputeMajor), ComputeMinor: int64(d.ComputeMinor), Driver: text(d.Driver, MaxName),
		Parent: string(d.Parent), Profile: text(d.Profile, MaxName), Health: pb.Health(d.Health), Reason: text(d.Reason, MaxText),
	}
}

func readingsTo(r fleet.Readings) *pb.Readings {
	out := &pb.Readings{
		TimeNs: unixNano(r.Time), CpuPercent: int64(r.CPUPercent), FreeMemMb: r.FreeMemMB, FreeDiskMb: r.FreeDiskMB,
		Tasks: int64(r.Tasks), Spooled: int64(r.Spooled), Runtime: text(r.Runtime, MaxText), Settings: text(r.Settings, MaxText),
		ClockOffNs: int64(r.ClockOff), BundleVersion: r.Bundle,
	}
	if u := r.Link; u != (fleet.LinkUse{}) {
		out.Link = &pb.LinkUse{
			Month: text(u.Month, MaxName), Keepalive: u.Keepalive, Readings: u.Readings, Updates: u.Updates,
			Images: u.Images, Logs: u.Logs, Budget: u.Budget, State: text(u.State, MaxName),
		}
	}
	if u := r.Upgrade; u != (fleet.UpgradeStatus{}) {
		out.Upgrade = &pb.UpgradeStatus{Rollout: string(u.Rollout), Version: u.Version, State: u.State, Text: text(u.Text, MaxText)}
	}
	if len(r.GPUs) > 0 {
		out.Gpus = make([]*pb.GPUReading, len(r.GPUs))
		for i, g := range r.GPUs {
			out.Gpus[i] = &pb.GPUReading{
				Uuid: string(g.UUID), UtilPercent: int64(g.UtilPercent), MemoryUsedMb: g.MemoryUsedMB,
				TemperatureC: int64(g.TemperatureC), PowerMw: g.PowerMW,
			}
		}
	}
	return out
}

func upgradeTo(u fleet.Upgrade) *pb.Upgrade {
	out := &pb.Upgrade{Rollout: string(u.Rollout), Version: u.Version}
	for _, p := range u.Packages {
		out.Packages = append(out.Packages, &pb.Package{Arch: p.Arch, Sha256: p.SHA256, Size: p.Size, Signature: p.Signature})
	}
	return out
}
