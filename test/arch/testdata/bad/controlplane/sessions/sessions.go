// Package sessions is innocent.
package sessions

import (
	_ "math/rand"

	_ "example.org/bad/controlplane/leader"
	_ "github.com/quic-go/quic-go/testutils/simnet"
)
