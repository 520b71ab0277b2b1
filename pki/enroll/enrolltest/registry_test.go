package enrolltest_test

import (
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki/enroll/enrolltest"
)

func TestTwinPassesTheSuite(t *testing.T) {
	enrolltest.TestRegistry(t, func(t *testing.T) enrolltest.Fixture {
		r := enrolltest.NewRegistry("fleet.example", time.Now)
		return enrolltest.Fixture{Registry: r, Add: r.Add, TrustDomain: "fleet.example", Now: time.Now}
	})
}
