package containerd

import (
	"testing"

	"github.com/tenderfleet/tender/test/ctrd"
)

// The daemons that are not this machine's own: Debian 13's, a 1.7, and the
// newest 2.x. Only what may differ between daemons is repeated.

func TestSuiteOnDebian13sContainerd(t *testing.T) {
	t.Parallel()
	suite(t, newWorld(t, ctrd.Debian13(t)))
}

func TestPullOnDebian13sContainerd(t *testing.T) {
	t.Parallel()
	pullScenarios(t, newWorld(t, ctrd.Debian13(t)))
}

func TestSuiteOnContainerd2(t *testing.T) {
	t.Parallel()
	suite(t, newWorld(t, ctrd.V2(t)))
}

func TestPullOnContainerd2(t *testing.T) {
	t.Parallel()
	pullScenarios(t, newWorld(t, ctrd.V2(t)))
}
