package controlplane

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/leader"
	"github.com/tenderfleet/tender/controlplane/packages"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/sessions"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/transport"
)

// Config is how a replica serves.
type Config struct {
	DataDir string
	// Listen is the address of the UDP and TCP port, ":7443" by default.
	Listen string
	// Conn and API replace the two ports; the replica closes them. With a Conn
	// and without an API, nothing is served over TCP unless Listen is set. Over
	// API come sessions of agents, too.
	Conn net.PacketConn
	API  net.Listener
	// Dial replaces the network for HTTPS to other replicas; nil is the machine's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Socket is the path of the local API, empty for none.
	Socket  string
	Version string
	// EnrolRate bounds the join requests per second that this replica looks at;
	// zero is enroll.DefaultRate.
	EnrolRate float64
	// AgentCertLife is how long an agent's certificate holds, at most seven
	// days; zero is that.
	AgentCertLife time.Duration
	// IssuerLife is how long the intermediates hold that this replica signs with
	// the root key; zero is two years.
	IssuerLife time.Duration
	// Patience multiplies Raft's time-outs, for machines so busy or with disks
	// so slow that a leader would lose its office for that; zero means 1.
	Patience int
	// Timing holds Raft's time-outs; the zero value is TimingDefault.
	Timing Timing
	// Reserve is how many bytes of free disk a leader wants before it hands over;
	// zero is registrar.DefaultReserve.
	Reserve uint64
	// Capability is registrar.Config's.
	Capability uint64
	// Schedulers is how outside schedulers connect, besides the HTTPS port.
	Schedulers Schedulers
	// Leader holds the offer cycle's times.
	Leader leader.Config
	Log    *slog.Logger
	// Ready is called once, when all ports are open.
	Ready func()
}

// Replica is one running member of the control plane.
type Replica struct {
	cfg  Config
	dir  layout
	self identity
	log  *slog.Logger
	cred *pki.Holder
	// storing is held by who writes a newer credential.
	storing sync.Mutex
	issuer  atomic.Pointer[issuer]
	port    *transport.Endpoint
	raft    *registrar.Raft
	mgr     *sessions.Manager
	enrol   *enroll.Server
	lead    atomic.Pointer[term]
	// members is what is known of the replicas while this one leads.
	members members
	// granting is held while the root key is used.
	granting  sync.Mutex
	openedKey openedKey
	// hastened is which rotation's renewals were asked for here, and when.
	hastened hastened
	// files are the packages of tender-agent, wanted those that another replica
	// is about to record; adding is held while one is added here.
	files  *packages.Store
	wanted wanted
	adding sync.Mutex
	// opened is set when raft can be asked: handshakes begin before that.
	opened atomic.Bool
}

// Run serves until ctx ends or a part fails for good. All goroutines have
// ended when it returns.
func Run(ctx context.Context, cfg Config) error {
	r, err := Open(cfg)
	if err != nil {
		return err
	}
	return r.Serve(ctx)
}

// Open starts Raft on an open UDP port. Serve must follow: it is what ends them.
func Open(cfg Config) (*Replica, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Listen == "" && cfg.Conn == nil {
		cfg.Listen = ":" + DefaultPort
	}
	r := &Replica{cfg: cfg, dir: layout(cfg.DataDir), log: cfg.Log}
	var err error
	if r.self, err = r.dir.load(); err != nil {
		return nil, err
	}
	if err := r.openPKI(); err != nil {
		return nil, err
	}
	reset, err := r.dir.resetKey()
	if err != nil {
		return nil, err
	}
	if r.files, err = packages.Open(r.dir.packages()); err != nil {
		return nil, err
	}
	if cfg.API == nil && cfg.Conn != nil && cfg.Listen != "" {
		if cfg.API, err = net.Listen("tcp", cfg.Listen); err != nil {
			return nil, fmt.Errorf("open the API's port: %w", err)
		}
	}
	r.port, err = transport.Listen(transport.Config{
		Addr: cfg.Listen, Conn: cfg.Conn, TCP: cfg.API, Holder: r.cred, Allow: r.allow, StatelessResetKey: reset, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	patience := time.Duration(max(1, cfg.Patience))
	timing := cfg.Timing.orDefault()
	r.raft, err = registrar.Open(registrar.Config{
		ID: r.self.ID, Addr: r.self.Addr, Dir: r.dir.raft(), Bootstrap: r.self.Bootstrap, Endpoint: r.port, Log: cfg.Log,
		Member: r.self.Member, Born: r.born, Version: cfg.Version, Reserve: cfg.Reserve, Capability: cfg.Capability,
		Tell: r.tell, Answer: r.answerReplica,
		Heartbeat: patience * timing.Heartbeat, Election: patience * timing.Election, Lease: patience * timing.Lease,
	})
	if err != nil {
		return nil, errors.Join(err, r.port.Close())
	}
	r.opened.Store(true)
	r.mgr = sessions.New(sessions.Config{
		Replica: r.self.ID, TrustDomain: r.self.TrustDomain, Log: cfg.Log, Bundle: r.bundle, Replicas: r.addrs,
		AdmitKey: r.admitKey, Renew: r.renew, Stored: r.stored,
		Leader:  func() string { _, addr := r.raft.Leader(); return addr },
		Upgrade: r.upgradeOf, Package: r.openPackage,
		Agent: r.agentRecord, Agents: r.agentCount, ResetKey: reset, Keep: r.dir.keepResetKey,
	})
	if err := r.checkRootKey(); err != nil {
		return nil, errors.Join(err, r.raft.Close(), r.port.Close())
	}
	r.enrol, err = enroll.NewServer(enroll.Config{
		Registry: registry{r}, Signer: recordingSigner{r}, Bundle: r.bundle, Replicas: r.addrs,
		RootKey: r.joinSigner, Rate: r.cfg.EnrolRate, Log: cfg.Log,
		Healer: healer{r}, Key: r.ownKey, ReleaseKeys: r.releaseKeys,
	})
	if err != nil {
		return nil, errors.Join(err, r.raft.Close(), r.port.Close())
	}
	return r, nil
}

func (r *Replica) openPKI() error {
	cred, err := pki.LoadDir(r.dir.pki())
	if err != nil {
		return err
	}
	r.cred = pki.NewHolder(cred)
	own, err := r.dir.loadIssuer()
	if err != nil {
		return err
	}
	if err := own.open(r.self.TrustDomain, issuerOf(own.inter, cred.Bundle), r.minLife()); err != nil {
		return err
	}
	r.issuer.Store(own)
	// A crash may have come between a new authority and its first certificate.
	signed := cred.Leaf().CheckSignatureFrom(own.inter) == nil
	if !signed || (own.cross != nil) != (len(cred.Chain.Certificate) > 3) {
		return r.renewSelf(context.Background())
	}
	if time.Now().After(pki.RenewAt(cred.Leaf(), 0)) {
		return r.renewSelf(context.Background())
	}
	return nil
}

// renewSelf signs this replica's next certificate with its own authority: a
// replica that was off for long comes back without help.
func (r *Replica) renewSelf(ctx context.Context) error {
	r.storing.Lock()
	defer r.storing.Unlock()
	old := r.cred.Get()
	if err := issue(ctx, r.issuer.Load(), old.Bundle, old.Identity, r.dir.pki()); err != nil {
		return fmt.Errorf("renew own certificate: %w", err)
	}
	cred, err := pki.LoadDir(r.dir.pki())
	if err != nil {
		return fmt.Errorf("renew own certificate: %w", err)
	}
	r.cred.Set(cred)
	r.log.Info("own certificate renewed", "not_after", cred.Leaf().NotAfter)
	return nil
}

// Serve does what Run does after Open.
func (r *Replica) Serve(ctx context.Context) error {
	local, err := r.listenLocal()
	if err != nil {
		return errors.Join(err, r.raft.Close(), r.port.Close())
	}
	plain, err := r.cfg.Schedulers.listen()
	if err != nil {
		return errors.Join(err, r.raft.Close(), r.port.Close(), closeAll(local))
	}
	g, ctx := errgroup.WithContext(ctx)
	opts := api.Options{Log: r.log, Version: client.Version{Version: r.cfg.Version}, Changed: r.changed, Trio: r, CA: r, Upgrades: r, Bundle: r.bundle}
	forward := &http.Transport{
		TLSClientConfig: pki.ClientTLS(r.cred, isReplica, pki.ALPNHTTP1), ResponseHeaderTimeout: 90 * time.Second, IdleConnTimeout: time.Minute,
		DialContext: r.cfg.Dial,
	}
	schedulers := r.schedulers(forward)
	handler := beside(api.Handler(r, opts), schedulers)
	opts.Local, opts.Forward = true, forward
	g.Go(func() error { return r.acceptAgents(ctx, g) })
	g.Go(func() error { return r.acceptJoiners(ctx, g) })
	g.Go(func() error { return r.acceptRelays(ctx, g) })
	g.Go(func() error { return r.relay(ctx) })
	g.Go(func() error { return r.watchRevocations(ctx) })
	g.Go(func() error { return r.mgr.Watch(ctx) })
	g.Go(func() error { return r.campaign(ctx) })
	g.Go(func() error { return r.failed(ctx) })
	g.Go(func() error { return r.renewing(ctx) })
	g.Go(func() error { return r.trust(ctx) })
	g.Go(func() error { return r.keepIssuer(ctx) })
	g.Go(func() error { return r.tellUpgrades(ctx) })
	g.Go(func() error { return r.keepPackages(ctx) })
	if public := r.port.HTTP(); public != nil {
		g.Go(func() error { return serveHTTP(ctx, public, handler, r.log) })
	}
	if local != nil {
		g.Go(func() error { return serveHTTP(ctx, local, api.Handler(r, opts), r.log) })
	}
	if plain != nil {
		g.Go(func() error { return serveHTTP(ctx, plain, schedulers.Local(r.cfg.Schedulers.Trust), r.log) })
	}
	g.Go(func() error {
		// Ends what blocks on the ports. A leader hands over first: the others
		// then need not wait for an election.
		<-ctx.Done()
		r.handOver()
		return errors.Join(r.raft.Close(), r.port.Close())
	})
	r.log.Info("replica serves", "replica", r.self.ID, "addr", r.self.Addr, "listen", r.cfg.Listen)
	if r.cfg.Ready != nil {
		r.cfg.Ready()
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// handOver gives leadership to another replica, if there is one and this
// replica leads. Without it the others take over by election.
func (r *Replica) handOver() {
	if id, _ := r.raft.Leader(); id != r.self.ID || len(r.raft.Replicas()) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := r.raft.Transfer(ctx); err != nil {
		r.log.Warn("leadership not handed over", "error", err)
	}
}

// listenLocal opens the API for this machine's root and the server's user.
func (r *Replica) listenLocal() (net.Listener, error) {
	path := r.cfg.Socket
	if path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("local API: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("local API: another process serves %s", path), c.Close())
	}
	_ = os.Remove(path) // left by a process that was killed
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("local API: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("local API: %w", err), ln.Close())
	}
	return ln, nil
}

func serveHTTP(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	srv := api.NewServer(h, log)
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve API: %w", err)
	}
	return nil
}

// allow decides in every handshake, on this replica's own copy of the state,
// about a certificate that is shown. The API asks each request again.
func (r *Replica) allow(id pki.Identity, _ *x509.Certificate, alpn string) error {
	if id.TrustDomain != r.self.TrustDomain {
		return fmt.Errorf("%s is of another trust domain", id)
	}
	// Replicas pass on what came over their own socket.
	if pki.IsHTTP(alpn) && !id.Kind.UsesAPI() && id.Kind != pki.KindReplica {
		return fmt.Errorf("%s may not use the API", id.Short())
	}
	if !r.opened.Load() {
		return errors.New("the replica is starting")
	}
	var revoked bool
	r.raft.Stale(func(s *state.State) { _, revoked = s.Revoked[id.String()] })
	if revoked {
		return fmt.Errorf("%s is revoked", id.Short())
	}
	return nil
}

func isReplica(id pki.Identity) error {
	if id.Kind != pki.KindReplica {
		return fmt.Errorf("%s is no replica", id.Short())
	}
	return nil
}

func (r *Replica) acceptAgents(ctx context.Context, g *errgroup.Group) error {
	for {
		s, err := r.port.Accept(ctx, transport.ALPNAgent)
		if err != nil {
			return err
		}
		g.Go(func() error {
			r.mgr.Serve(ctx, s)
			return nil
		})
	}
}

func (r *Replica) acceptJoiners(ctx context.Context, g *errgroup.Group) error {
	for {
		s, err := r.port.Accept(ctx, transport.ALPNEnrol)
		if err != nil {
			return err
		}
		g.Go(func() error {
			r.admit(ctx, s)
			return nil
		})
	}
}

// admit answers one stranger and ends the connection.
func (r *Replica) admit(ctx context.Context, s transport.Session) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	st, err := s.Accept(ctx)
	if err == nil && r.answer(ctx, s, st) {
		_ = st.Close()
		select { // closing at once would overtake the reply
		case <-s.Context().Done():
		case <-ctx.Done():
		}
	}
	_ = s.Close(transport.CodeOK, "")
}

// renewing keeps this replica's own certificate fresh.
func (r *Replica) renewing(ctx context.Context) error {
	for {
		at := pki.RenewAt(r.cred.Get().Leaf(), rand.Float64())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(at)):
		}
		if err := r.renewSelf(ctx); err != nil {
			r.log.Error("own certificate not renewed", "error", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Minute):
			}
		}
	}
}

func (r *Replica) bundle() *pki.Bundle { return r.cred.Get().Bundle }

// addrs lists where agents may dial, the leader first.
func (r *Replica) addrs() []string {
	_, leading := r.raft.Leader()
	var out []string
	if leading != "" {
		out = append(out, leading)
	}
	r.raft.Stale(func(s *state.State) {
		for _, id := range state.SortedKeys(s.Replicas) {
			if a := s.Replicas[id].Addr; a != leading {
				out = append(out, a)
			}
		}
	})
	if len(out) == 0 {
		out = append(out, r.self.Addr)
	}
	return out
}
