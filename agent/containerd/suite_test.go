package containerd

import (
	"testing"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/agent/executor/executortest"
	"github.com/tenderfleet/tender/test/ctrd"
)

func TestSuiteOnDebiansContainerd(t *testing.T) {
	t.Parallel()
	suite(t, newWorld(t, ctrd.Debian(t)))
}

func suite(t *testing.T, w *world) {
	executortest.Run(t, func(t *testing.T) (executor.Executor, executortest.Fixture) {
		return w.open(t), w.fixture()
	})
}
