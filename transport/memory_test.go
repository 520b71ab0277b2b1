package transport_test

import (
	"testing"
	"testing/synctest"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/transporttest"
)

func TestMemorySessions(t *testing.T) {
	transporttest.Run(t, func(_ *testing.T, agent, replica pki.Identity) (transport.Session, transport.Session) {
		return transport.Pair(agent, replica)
	})
}

// TestMemoryInBubble shows that blocking on the twin counts as waiting under
// synctest: a goroutine left behind would fail the bubble.
func TestMemoryInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := transport.Pair(transporttest.Agent, transporttest.Replica)
		out, err := a.Open(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { _, err := out.Read(make([]byte, 1)); done <- err }()
		synctest.Wait()
		b.Close(transport.CodeOK, "")
		<-done
	})
}
