// Package pb is the generated protobuf form of the frames. Only package wire
// imports it; everything else speaks of the fleet in package fleet's types.
package pb
