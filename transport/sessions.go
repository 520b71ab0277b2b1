package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"slices"
	"sync"

	"github.com/tenderfleet/tender/pki"
)

// sessions are those of one port, kept until they are over, so that close can
// tell every peer. The zero value is ready.
type sessions struct {
	mu     sync.Mutex
	open   map[Session]struct{}
	closed bool
}

// add reports whether the port is still open.
func (k *sessions) add(s Session) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return false
	}
	if k.open == nil {
		k.open = make(map[Session]struct{})
	}
	k.open[s] = struct{}{}
	context.AfterFunc(s.Context(), func() {
		ended(s)
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.open, s)
	})
	return true
}

// close ends every session and returns when their peers were told.
func (k *sessions) close(code Code, reason string) {
	k.mu.Lock()
	open := k.open
	k.open, k.closed = nil, true
	k.mu.Unlock()
	end(slices.Collect(maps.Keys(open)), code, reason)
}

// end ends sessions side by side, so that a peer that does not listen holds up
// few others, and returns when their peers were told.
func end(list []Session, code Code, reason string) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	for _, s := range list {
		slots <- struct{}{}
		wg.Go(func() {
			_ = s.Close(code, reason) // a peer that cannot be told finds out
			ended(s)
			<-slots
		})
	}
	wg.Wait()
}

// distrust ends the sessions that were opened under other roots than these.
func (k *sessions) distrust(roots []*x509.Certificate) int {
	k.mu.Lock()
	open := slices.Collect(maps.Keys(k.open))
	k.mu.Unlock()
	open = slices.DeleteFunc(open, func(s Session) bool { return leadsTo(s, roots) })
	end(open, CodeOK, "the root of your certificate is trusted no more; connect again")
	return len(open)
}

// leadsTo reports whether the certificate that the other side has shown leads to
// one of the roots. Where none was shown, as on enrol/1, it is true.
func leadsTo(s Session, roots []*x509.Certificate) bool {
	t, ok := s.(interface{ tlsState() tls.ConnectionState })
	if !ok {
		return true
	}
	state := t.tlsState()
	if len(state.VerifiedChains) == 0 { // we have dialled: see pki.ClientTLS
		return len(state.PeerCertificates) == 0 || pki.LeadsTo(state.PeerCertificates, roots)
	}
	return slices.ContainsFunc(state.VerifiedChains, func(chain []*x509.Certificate) bool {
		return slices.ContainsFunc(roots, chain[len(chain)-1].Equal)
	})
}

// ended returns when nothing of a closed session is left. QUIC's belong to
// their socket.
func ended(s Session) {
	if t, ok := s.(*tcpSession); ok {
		t.wait()
	}
}
