// Package fakenvml stands in for a machine with NVIDIA GPUs, so that tests and
// demonstrations need no hardware.
//
// It compiles its own libnvidia-ml.so.1 with gcc against the header that the
// go-nvml module carries, so the library is loaded, called and can fail as the
// real one does. What the library reports is a text file, the world, that is
// read again whenever it changes:
//
//	w := fakenvml.NewWorld(2, "NVIDIA RTX A6000", 49140)
//	root, err := fakenvml.DriverRoot(dir, w)   // libraries, device nodes, world
//	err = fakenvml.AppendEvent(root.State, 0, fakenvml.XID, 79)
//	w.GPUs[1].Lost = true
//	err = w.Write(root.State)
//
// The world is found by $FAKE_NVML_STATE, or else as the file fakenvml.state
// beside the library. As in a real process the list of GPUs is taken when NVML
// is initialised: an added GPU appears after the next initialisation only.
//
// DriverRoot needs root, because device nodes are made by mknod. The package is
// for tests and for shell scripts (see the cmd directory); nothing that ships
// may import it.
package fakenvml
