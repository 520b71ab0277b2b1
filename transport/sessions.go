package transport

import (
	"context"
	"sync"
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
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	for s := range open {
		slots <- struct{}{}
		wg.Go(func() {
			_ = s.Close(code, reason) // a peer that cannot be told finds out
			ended(s)
			<-slots
		})
	}
	wg.Wait()
}

// ended returns when nothing of a closed session is left. QUIC's belong to
// their socket.
func ended(s Session) {
	if t, ok := s.(*tcpSession); ok {
		t.wait()
	}
}
