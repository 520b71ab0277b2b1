package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Schedulers is how outside schedulers connect. All can use the HTTPS port.
type Schedulers struct {
	// Listen is an address on this machine's loopback where schedulers that
	// cannot do TLS connect by plain HTTP; empty for none. Listener replaces it.
	Listen   string
	Listener net.Listener
	// Trust is the framework's principal that whoever connects there and shows
	// no token is taken for; empty: everybody shows one.
	Trust string
	// Image is what tasks run in that name none.
	Image string
}

// listen opens the plain listener, nil for none.
func (s *Schedulers) listen() (net.Listener, error) {
	if s.Listener != nil || s.Listen == "" {
		return s.Listener, nil
	}
	addr, err := net.ResolveTCPAddr("tcp", s.Listen)
	if err != nil {
		return nil, fmt.Errorf("open the schedulers' port: %w", err)
	}
	if !addr.IP.IsLoopback() {
		return nil, fmt.Errorf("open the schedulers' port: %s is not on this machine's loopback: what goes over it is not encrypted; use 127.0.0.1, or have schedulers use the HTTPS port", s.Listen)
	}
	ln, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("open the schedulers' port: %w", err)
	}
	return ln, nil
}

func closeAll(lns ...net.Listener) error {
	var errs []error
	for _, ln := range lns {
		if ln != nil {
			errs = append(errs, ln.Close())
		}
	}
	return errors.Join(errs...)
}

// schedulers makes the edge at which Mesos schedulers connect.
func (r *Replica) schedulers(forward http.RoundTripper) *mesosv1.Server {
	return mesosv1.New(mesosv1.Config{
		ID: r.self.ID, Addr: r.self.Addr, Version: r.cfg.Version, Image: r.cfg.Schedulers.Image, Bundle: r.bundle,
		Leader: r.raft.Leader, State: r.raft.Stale, Forward: forward, Log: r.log,
		Lead: func() *mesosv1.Hub {
			if t := r.lead.Load(); t != nil {
				return t.hub
			}
			return nil
		},
		Remote: func(id fleet.AgentID) string {
			if t := r.lead.Load(); t != nil {
				return t.desk.Soft(id, 0).Remote
			}
			return ""
		},
	})
}

// beside serves schedulers on the port of the API.
func beside(api http.Handler, schedulers http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(mesosv1.Path, schedulers)
	mux.Handle("/", api)
	return mux
}

// deliver hands events of frameworks to the leader's loop.
func (t *term) deliver(ctx context.Context, events ...leader.Event) error {
	return t.query(ctx, func(*leader.Leader) { t.feed(events) })
}
