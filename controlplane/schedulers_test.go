package controlplane

import (
	"strings"
	"testing"
)

// What goes over the plain port is not encrypted: it is for this machine alone.
func TestThePlainPortIsOnLoopback(t *testing.T) {
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "198.51.100.7:5050"} {
		s := Schedulers{Listen: addr}
		ln, err := s.listen()
		if err == nil {
			_ = ln.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, addr := range []string{"127.0.0.1:0", "127.9.9.9:0", "localhost:0"} {
		s := Schedulers{Listen: addr}
		ln, err := s.listen()
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		if err := closeAll(ln, nil); err != nil {
			t.Error(err)
		}
	}
	if ln, err := (&Schedulers{}).listen(); ln != nil || err != nil {
		t.Errorf("without an address: %v, %v", ln, err)
	}
	s := Schedulers{Listen: "nowhere"}
	if _, err := s.listen(); err == nil {
		t.Error("an address without a port opens one")
	}
}
