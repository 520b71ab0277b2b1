// Package capacity reads what a Linux machine has and how busy it is.
//
//	m, err := capacity.Machine(dir)       // totals: processors, memory, disk
//	var meter capacity.Meter
//	r := meter.Read(dir)                  // momentary, every heartbeat
package capacity
