// Package dial knows the other side.
package dial

import (
	_ "testing"

	_ "example.org/bad/controlplane/sessions"
	_ "example.org/bad/test/bed"
	_ "google.golang.org/protobuf/proto"
)
