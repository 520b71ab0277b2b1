package linkpolicy_test

import (
	"testing"
	"time"

	"github.com/tenderfleet/tender/agent/linkpolicy"
	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

const s = time.Second

func TestKeepalive(t *testing.T) {
	held := func(times int, gap time.Duration) func(*linkpolicy.Keepalive) {
		return func(k *linkpolicy.Keepalive) {
			for range times {
				k.Held(gap)
			}
		}
	}
	lost := func(gap time.Duration) func(*linkpolicy.Keepalive) {
		return func(k *linkpolicy.Keepalive) { k.Lost(gap) }
	}
	for name, tc := range map[string]struct {
		longest time.Duration
		events  []func(*linkpolicy.Keepalive)
		want    time.Duration
	}{
		"begins":                         {0, nil, 25 * s},
		"begins where it may":            {20 * s, nil, 20 * s},
		"is never under 15 s":            {s, nil, 15 * s},
		"stays, by default":              {0, []func(*linkpolicy.Keepalive){held(1000, 25*s)}, 25 * s},
		"lengthens where it may":         {time.Minute, []func(*linkpolicy.Keepalive){held(20, 25*s)}, 30 * s},
		"not at once":                    {time.Minute, []func(*linkpolicy.Keepalive){held(19, 25*s)}, 25 * s},
		"up to the limit":                {40 * s, []func(*linkpolicy.Keepalive){held(500, 60*s)}, 40 * s},
		"up to a minute":                 {time.Hour, []func(*linkpolicy.Keepalive){held(5000, time.Hour)}, 60 * s},
		"shortens when the NAT forgot":   {0, []func(*linkpolicy.Keepalive){lost(25 * s)}, 20 * s},
		"and again":                      {0, []func(*linkpolicy.Keepalive){lost(25 * s), lost(20 * s)}, 15 * s},
		"but not below":                  {0, []func(*linkpolicy.Keepalive){lost(25 * s), lost(20 * s), lost(15 * s), lost(15 * s)}, 15 * s},
		"to 15 s at once":                {0, []func(*linkpolicy.Keepalive){lost(16 * s)}, 15 * s},
		"a long silence says little":     {0, []func(*linkpolicy.Keepalive){lost(10 * time.Minute)}, 25 * s},
		"stays below what was too long":  {time.Minute, []func(*linkpolicy.Keepalive){held(20, 25*s), lost(30 * s), held(1000, 25*s)}, 25 * s},
		"short silences prove nothing":   {time.Minute, []func(*linkpolicy.Keepalive){held(1000, 10*s)}, 25 * s},
		"another network, another start": {0, []func(*linkpolicy.Keepalive){lost(16 * s), (*linkpolicy.Keepalive).Reset}, 25 * s},
	} {
		k := linkpolicy.NewKeepalive(tc.longest)
		for _, e := range tc.events {
			e(k)
		}
		if got := k.Interval(); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestWorth(t *testing.T) {
	at := time.Unix(1000, 0)
	base := fleet.Readings{
		Time: at, CPUPercent: 40, FreeMemMB: 1000, FreeDiskMB: 10_000, Tasks: 2,
		GPUs: []gpu.Reading{{UUID: "g", UtilPercent: 50, TemperatureC: 60, MemoryUsedMB: 1000, PowerMW: 100_000}},
	}
	for name, tc := range map[string]struct {
		change func(*fleet.Readings)
		want   bool
	}{
		"nothing":             {func(*fleet.Readings) {}, false},
		"CPU a little":        {func(r *fleet.Readings) { r.CPUPercent = 49 }, false},
		"CPU":                 {func(r *fleet.Readings) { r.CPUPercent = 30 }, true},
		"memory a little":     {func(r *fleet.Readings) { r.FreeMemMB = 950 }, false},
		"memory":              {func(r *fleet.Readings) { r.FreeMemMB = 949 }, true},
		"disk":                {func(r *fleet.Readings) { r.FreeDiskMB = 11_000 }, true},
		"a task":              {func(r *fleet.Readings) { r.Tasks = 1 }, true},
		"an update waits":     {func(r *fleet.Readings) { r.Spooled = 1 }, true},
		"the runtime":         {func(r *fleet.Readings) { r.Runtime = "gone" }, true},
		"settings broke":      {func(r *fleet.Readings) { r.Settings = "agent.yaml:1" }, true},
		"an upgrade":          {func(r *fleet.Readings) { r.Upgrade.State = fleet.UpgradeTrial }, true},
		"new trust roots":     {func(r *fleet.Readings) { r.Bundle = 7 }, true},
		"the clock a little":  {func(r *fleet.Readings) { r.ClockOff = 999 * time.Millisecond }, false},
		"the clock":           {func(r *fleet.Readings) { r.ClockOff = -time.Hour }, true},
		"a GPU less":          {func(r *fleet.Readings) { r.GPUs = nil }, true},
		"another GPU":         {func(r *fleet.Readings) { r.GPUs = []gpu.Reading{{UUID: "h"}} }, true},
		"GPU load a little":   {func(r *fleet.Readings) { r.GPUs[0].UtilPercent = 59 }, false},
		"GPU load":            {func(r *fleet.Readings) { r.GPUs[0].UtilPercent = 60 }, true},
		"GPU heat":            {func(r *fleet.Readings) { r.GPUs[0].TemperatureC = 65 }, true},
		"GPU memory":          {func(r *fleet.Readings) { r.GPUs[0].MemoryUsedMB = 2000 }, true},
		"GPU power":           {func(r *fleet.Readings) { r.GPUs[0].PowerMW = 150_000 }, true},
		"after four minutes":  {func(r *fleet.Readings) { r.Time = at.Add(4 * time.Minute) }, false},
		"after five minutes":  {func(r *fleet.Readings) { r.Time = at.Add(5 * time.Minute) }, true},
		"the clock went back": {func(r *fleet.Readings) { r.Time = at.Add(-time.Hour) }, false},
	} {
		now := base
		now.GPUs = append([]gpu.Reading(nil), base.GPUs...)
		tc.change(&now)
		if got := linkpolicy.Worth(base, now); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
