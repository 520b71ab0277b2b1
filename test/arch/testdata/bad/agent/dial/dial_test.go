package dial

import (
	_ "testing"

	_ "example.org/bad/controlplane/sessions"
	_ "example.org/bad/gpu"
	_ "github.com/quic-go/quic-go"
	_ "github.com/quic-go/quic-go/testutils/simnet"
)
