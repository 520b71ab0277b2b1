// Package pki is as it should be.
package pki

// Kind of an identity.
type Kind string
