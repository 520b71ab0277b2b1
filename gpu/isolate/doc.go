// Package isolate gives a container exactly the GPUs that were assigned to it,
// as changes of its OCI specification.
//
//	iso := isolate.Isolator{Source: driver, DriverRoot: "/"}
//	edits, err := iso.Edits(ctx, task.GPUs)      // looks at the machine
//	err = edits.Apply(spec)                      // the LAST change of the spec
//
// and for a task without GPUs, also last:
//
//	err = isolate.Void(spec)
//
// Last, because what comes later could undo it: another option may replace the
// environment or the mounts.
//
// # What separates tasks
//
// The devices cgroup of the container, and nothing else. It denies every device
// except those that the specification names, and Apply refuses a specification
// that does not deny all, or that allows all of a kind or any GPU again. A task
// gets the node of each of its cards (and of each MIG slice the two capability
// nodes), with "rw" and no right to make nodes, and the control nodes that all
// GPU tasks share: nvidiactl, nvidia-uvm, nvidia-uvm-tools and nvidia-modeset.
// On those the driver itself keeps the tasks apart.
//
// A node's number is read from the node, by lstat, when the task starts. It
// must be a character device and, for a card, bear the driver's major number
// and the minor number that the driver gives for the UUID at that moment. So a
// card that was moved, or a node that somebody planted, is refused rather than
// given away.
//
// # What is not used
//
// There are no hooks: hooks run as root on the host with the image's
// environment at hand, which is how containers broke out through GPU toolkits
// more than once. So the driver's libraries are bound, one by one and read-only,
// onto their SONAMEs in /usr/local/nvidia/lib64, and LD_LIBRARY_PATH names that
// directory first. An image that clears LD_LIBRARY_PATH has to do without, and
// graphics (DRM nodes, Vulkan and EGL files) are not carried in.
//
// The environment requests nothing. NVIDIA_* variables of the image or the user
// are dropped and NVIDIA_VISIBLE_DEVICES is "void", in every container, so that
// a host whose runtime is NVIDIA's does not hand out cards behind our back.
//
// # Where the facts come from
//
// NVIDIA's own library (nvcdi) knows where drivers put their files, on many
// distributions, and how MIG slices map to capability nodes; it is not worth
// doing again. It needs NVML in its process, so it runs in the probe of package
// nvml, which hands over a CDI specification. This package takes from it only
// what it can check, and applies it with the CDI library; no CDI file is ever
// written, so none can be stale or be tampered with.
package isolate
