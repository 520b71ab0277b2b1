//go:build !cgo || !linux

package nvml

import (
	"context"
	"errors"
	"io"
)

const supported = false

// Probe cannot work in this build, and Open never starts it.
func Probe(context.Context, io.Reader, io.Writer) error {
	return errors.New("this build has no NVML support: build it for Linux with cgo")
}
