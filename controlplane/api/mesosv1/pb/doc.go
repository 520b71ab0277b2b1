// Package pb is the generated protobuf form of the Mesos v1 scheduler API. Only
// package mesosv1 and what translates for it import it; everything else speaks
// of the fleet in package fleet's types.
package pb
