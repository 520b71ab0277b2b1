package pkitest_test

import (
	"testing"

	"github.com/tenderfleet/tender/pki/pkitest"
)

func TestTwinPassesTheSuite(t *testing.T) {
	ca := pkitest.New(t, "fleet.example")
	pkitest.TestSigner(t, ca, "fleet.example", ca.Root)
}
