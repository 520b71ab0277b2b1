// Package gpu names the graphics processors of one machine: their identity,
// what a scheduler may ask of them, and how they fare.
//
// A device is known by its UUID alone. Index and minor number change when a
// card is added, reset or moved, so nothing outside the launch of a container
// may store them. The package is a leaf: it imports the standard library only,
// and holds no driver. Package gpu/nvml reads devices from the NVIDIA
// management library; package gpu/isolate turns assigned devices into the
// entries of a container's specification.
package gpu
