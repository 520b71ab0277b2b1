package sessions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
	"github.com/tenderfleet/tender/transport/wire"
)

const (
	// maxPackages bounds the packages that a replica sends at a time,
	// maxOwnPackages those of them that go to one agent.
	maxPackages    = 8
	maxOwnPackages = 2
	// packageTime bounds the way of one piece over a link.
	packageTime = 2 * time.Minute
	// packageRetry is when to ask again that comes too early.
	packageRetry = 10 * time.Second
)

// ErrNoPackage: there is no such package. ErrPackageLater: it is not here yet.
var (
	ErrNoPackage    = errors.New("the fleet has no such package")
	ErrPackageLater = errors.New("this replica is still fetching the package")
)

// PackageFile is an open package; who asked for it closes it.
type PackageFile interface {
	io.ReadSeekCloser
}

// sendPackage answers a package stream of an agent, or of another replica.
func (m *Manager) sendPackage(ctx context.Context, st transport.Stream) error {
	defer st.Close() //nolint:errcheck // what was to be said is said; a reset made it void
	defer context.AfterFunc(ctx, st.Reset)()
	_ = st.SetDeadline(time.Now().Add(helloTime))
	conn := wire.NewConn(st, wire.MaxHello)
	msg, err := conn.Recv()
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	req, ok := msg.(wire.PackageRequest)
	if !ok {
		st.Reset()
		return fmt.Errorf("%T instead of a request", msg)
	}
	conn.SetLimit(wire.MaxControl)
	refuse := func(code wire.RefusalCode, text string, after time.Duration) error {
		return conn.Send(wire.Refusal{Code: code, Text: text, RetryAfter: after})
	}
	select {
	case m.sending <- struct{}{}:
		defer func() { <-m.sending }()
	default:
		return refuse(wire.RefusedBusy, "the replica is sending as many packages as it may", packageRetry)
	}
	if m.cfg.Package == nil {
		return refuse(wire.RefusedNotFound, ErrNoPackage.Error(), 0)
	}
	f, err := m.cfg.Package(req.SHA256)
	switch {
	case errors.Is(err, ErrNoPackage):
		return refuse(wire.RefusedNotFound, err.Error(), 0)
	case err != nil: // another replica may have it at once
		return errors.Join(err, refuse(wire.RefusedBusy, ErrPackageLater.Error(), packageRetry))
	}
	defer f.Close() //nolint:errcheck // it was read
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && req.Offset > size {
		return refuse(wire.RefusedBadRequest, fmt.Sprintf("the package has %d bytes, and byte %d is asked for", size, req.Offset), 0)
	}
	if err == nil {
		_, err = f.Seek(req.Offset, io.SeekStart)
	}
	if err != nil {
		st.Reset()
		return fmt.Errorf("read package: %w", err)
	}
	return sendChunks(conn, st, f)
}

func sendChunks(conn *wire.Conn, st transport.Stream, f io.Reader) error {
	buf := make([]byte, wire.MaxPackageChunk)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			_ = st.SetDeadline(time.Now().Add(packageTime))
			if serr := conn.Send(wire.PackageChunk{Data: buf[:n]}); serr != nil {
				st.Reset()
				return fmt.Errorf("send package: %w", serr)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		default:
			st.Reset()
			return fmt.Errorf("read package: %w", err)
		}
	}
}

// FetchPackage reads a package from the replica at the other end of a relay/1
// connection and writes it to w. What it is the caller checks. A refusal is a
// *RefusedError.
func FetchPackage(ctx context.Context, conn transport.Session, p fleet.Package, w io.Writer) error {
	st, err := conn.Open(ctx, transport.StreamPackage)
	if err != nil {
		return fmt.Errorf("fetch package: %w", err)
	}
	defer st.Reset()
	defer context.AfterFunc(ctx, st.Reset)()
	_ = st.SetDeadline(time.Now().Add(packageTime))
	c := wire.NewConn(st, wire.MaxControl)
	if err := c.Send(wire.PackageRequest{SHA256: p.SHA256}); err != nil {
		return fmt.Errorf("fetch package: %w", err)
	}
	for left := p.Size; ; {
		msg, err := c.Recv()
		switch {
		case errors.Is(err, io.EOF) && left == 0:
			return nil
		case err != nil:
			return fmt.Errorf("fetch package: %w", err)
		}
		switch msg := msg.(type) {
		case wire.PackageChunk:
			if left -= int64(len(msg.Data)); left < 0 {
				return fmt.Errorf("fetch package: it has more than %d bytes", p.Size)
			}
			if _, err := w.Write(msg.Data); err != nil {
				return fmt.Errorf("fetch package: %w", err)
			}
			_ = st.SetDeadline(time.Now().Add(packageTime))
		case wire.Refusal:
			return &RefusedError{msg}
		default:
			return fmt.Errorf("fetch package: unexpected %T", msg)
		}
	}
}

// servePackages answers another replica that came for packages, until it goes.
func (m *Manager) servePackages(ctx context.Context, conn transport.Session, st transport.Stream) error {
	for {
		if err := m.sendPackage(ctx, st); err != nil {
			return err
		}
		next, err := conn.Accept(ctx)
		if err != nil {
			return nil //nolint:nilerr // it has what it came for
		}
		if st = next; st.Kind() != transport.StreamPackage {
			return fmt.Errorf("a stream of kind %q among those of packages", st.Kind())
		}
	}
}

// Upgrade has every session here look again what its agent is to run.
func (m *Manager) Upgrade() {
	for _, s := range m.sessions() {
		s.lookForUpgrade()
	}
}

// lookForUpgrade sends the agent what it is to run, if that is news to it.
func (s *session) lookForUpgrade() {
	if s.capability < 3 || s.m.cfg.Upgrade == nil {
		return
	}
	u, ever := s.m.cfg.Upgrade(s.id)
	if !ever {
		return
	}
	s.mu.Lock()
	news := !s.upgradeTold || s.upgrade.Rollout != u.Rollout
	if news {
		s.upgrade, s.upgradeTold, s.upgradeNews = u, true, true
	}
	s.mu.Unlock()
	if news {
		s.rouse()
	}
}
