// Package isolation proves that a task reaches the GPUs it was given and no
// others, on a machine without any.
//
// Everything but the cards is real: the agent's executor and its NVML probe, a
// containerd of the test's own, runc, and the kernel's control groups. NVML is
// answered by package fakenvml, through dlopen. What stands for cards are
// device nodes, and the kernel says what became of an attempt to open one:
//
//	EPERM  the container's control group denied it
//	ENXIO  it was let through, and no driver is behind the number
//	OPEN   it was let through to a driver
//
// Numbers of spare virtual terminals (4:60 and on) have a driver everywhere, so
// that a granted device opens; the NVIDIA driver's own (195:N) show that the
// rules are about the numbers that count. Those that every container may open
// (1:3, 1:5, 1:7, 1:8, 1:9, 5:0, 5:2, 10:200, 136:*) would prove nothing.
//
// Each attempt to break out has its control: the same attack with isolation
// switched off must be noticed by the same check. What only a machine with GPUs
// can show is in test/hardware/gpu.sh.
package isolation
