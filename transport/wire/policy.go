package wire

import (
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire/pb"
)

func restartTo(r fleet.Restart) *pb.Restart {
	if r == (fleet.Restart{}) {
		return nil
	}
	return &pb.Restart{Attempts: int64(r.Attempts), IntervalNs: int64(r.Interval), DelayNs: int64(r.Delay), Mode: string(r.Mode)}
}

func restartFrom(r *pb.Restart) fleet.Restart {
	return fleet.Restart{
		Attempts: int(r.GetAttempts()), Interval: time.Duration(r.GetIntervalNs()), Delay: time.Duration(r.GetDelayNs()),
		Mode: fleet.RestartMode(r.GetMode()),
	}
}

func disconnectTo(d fleet.Disconnect) *pb.Disconnect {
	if d == (fleet.Disconnect{}) {
		return nil
	}
	return &pb.Disconnect{
		StopAfterNs: int64(d.StopAfter), LostAfterNs: int64(d.LostAfter), Replace: d.Replace, Reconcile: string(d.Reconcile),
	}
}

func disconnectFrom(d *pb.Disconnect) fleet.Disconnect {
	return fleet.Disconnect{
		StopAfter: time.Duration(d.GetStopAfterNs()), LostAfter: time.Duration(d.GetLostAfterNs()),
		Replace: d.GetReplace(), Reconcile: fleet.Reconcile(d.GetReconcile()),
	}
}
