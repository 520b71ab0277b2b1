// Package nvml reads the GPUs of one machine from the NVIDIA management
// library (NVML), which it runs in a child process.
//
// The child is the agent's own program, started again with a hidden subcommand
// that does nothing but
//
//	err := nvml.Probe(ctx, os.Stdin, os.Stdout)
//
// and the agent itself holds the other end:
//
//	d := nvml.Open(nvml.Config{Path: self, Args: []string{"nvml-probe"}, Log: log})
//	defer d.Close()
//	devices, err := d.Inventory(ctx)    // none, and no error, without a driver
//	reason := d.Reason()                // why there are none, for people
//	for e := range d.Events(ctx) {      // faults, as they happen
//		devices, err = d.Inventory(ctx)
//	}
//	spec, minors, err := d.CDI(ctx, uuids) // what package isolate starts from
//
// # Why a child
//
// NVML is code of somebody else, loaded at run time, and it fails in ways that
// Go cannot catch: a function that an older driver lacks ends the process, and
// a call into a dying GPU may never return. In the child either costs one
// restart. The child is killed when a request misses its deadline, and started
// again with growing pauses; meanwhile the devices known so far are listed with
// health unknown, so nothing new is placed on them and nothing they run is
// disturbed. At most two children that ignore even SIGKILL are left behind.
//
// # Health
//
//   - An XID that is an application's own doing (13, 31, 43, 45, 68, 109)
//     becomes an event and changes nothing. Any other makes the device
//     unhealthy; on a card in MIG mode it hits the slice it names, or all.
//   - Rows that wait to be remapped make it suspect, a failed remapping or a
//     recovery action demanded by the driver unhealthy.
//   - A device that answers "GPU is lost", or that the driver no longer lists,
//     is lost; a poll finds it where no XID tells. The others stay as they are.
//   - A device recovers when the driver asks for no recovery action and no XID
//     came for Config.Clean, or by Clear, an operator's word.
//
// NVML takes its list of GPUs when it is initialised. So a card that was added,
// or a driver that was started late, is found by starting the child again: when
// the device nodes or the library change, and every Config.Rescan while a
// device is missing or broken.
//
// # Building
//
// The probe needs cgo and Linux; elsewhere Open yields no devices and a reason.
// The program must bind symbols lazily: link it with
//
//	go build -ldflags='-extldflags=-Wl,-z,lazy'
//
// or it will not start at all where the driver lacks a function.
package nvml
