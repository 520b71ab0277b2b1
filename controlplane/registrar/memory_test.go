package registrar_test

import (
	"testing"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/registrar/registrartest"
)

func TestMemory(t *testing.T) {
	registrartest.Run(t, func(t *testing.T) registrartest.Registrar {
		r := registrar.NewMemory()
		t.Cleanup(func() { r.Close() })
		return r
	})
}
