package containerd

import (
	"testing"

	"github.com/tenderfleet/tender/test/ctrd"
)

func TestSuiteOnContainerd2(t *testing.T) {
	suite(t, newWorld(t, ctrd.V2(t)))
}
