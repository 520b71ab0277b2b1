package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/client/release"
	"github.com/tenderfleet/tender/controlplane/packages"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/sessions"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

var _ api.Upgrades = (*Replica)(nil)

const (
	// lookForPackages is how often a replica looks which packages it lacks;
	// maxFetchWait bounds the wait after what could not be fetched.
	lookForPackages = time.Second
	maxFetchWait    = time.Minute
	// fetchTime bounds the way of one package between two replicas.
	fetchTime = 10 * time.Minute
	// sweepEvery is how often files are looked for that no record names, sweepAge
	// for how long that has to be so: a file comes before its record.
	sweepEvery = 10 * time.Minute
	sweepAge   = time.Hour
	// heldDigits of a digest tell the few packages of a fleet apart.
	heldDigits = 12
	// opPackage asks a replica to fetch a package, and whether it has.
	opPackage = "package"
)

// wanted are packages that the leader is about to record.
type wanted struct {
	mu  sync.Mutex
	set map[string]want
}

type want struct {
	fleet.Package
	until time.Time
}

// put notes a package for the next round; it is bounded as uploads are.
func (w *wanted) put(p fleet.Package) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.set == nil {
		w.set = map[string]want{}
	}
	for sum, old := range w.set {
		if time.Now().After(old.until) {
			delete(w.set, sum)
		}
	}
	if len(w.set) < state.MaxVersions*fleet.MaxPackages {
		w.set[p.SHA256] = want{p, time.Now().Add(fetchTime)}
	}
}

func (w *wanted) list() (all []fleet.Package) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.set {
		if time.Now().Before(p.until) {
			all = append(all, p.Package)
		}
	}
	return all
}

// recorded are the packages that this replica is to hold.
func (r *Replica) recorded() map[string]fleet.Package {
	all := map[string]fleet.Package{}
	r.raft.Stale(func(s *state.State) {
		for sum, p := range s.Packages {
			all[sum] = p.Package
		}
	})
	return all
}

// heldPackages are the first digits of the digests of those that it has.
func (r *Replica) heldPackages() (held []string) {
	if !r.opened.Load() {
		return nil
	}
	for sum := range r.recorded() {
		if r.files.Has(sum) {
			held = append(held, sum[:heldDigits])
		}
	}
	return held
}

// Holders says which replicas have a package, as far as the leader knows.
func (r *Replica) Holders(sum string) (ids []fleet.ReplicaID) {
	r.members.mu.Lock()
	defer r.members.mu.Unlock()
	for _, id := range state.SortedKeys(r.members.said) {
		for _, has := range r.members.said[id].Packages {
			if has == sum[:heldDigits] {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// openPackage opens a package for an agent or another replica.
func (r *Replica) openPackage(sum string) (sessions.PackageFile, error) {
	f, err := r.files.Open(sum)
	switch {
	case err == nil:
		return f, nil
	case !errors.Is(err, packages.ErrNone):
		return nil, err
	}
	if _, known := r.recorded()[sum]; known {
		return nil, errAway
	}
	return nil, sessions.ErrNoPackage
}

// keepPackages fetches what records name and is not here, and removes what none
// names.
func (r *Replica) keepPackages(ctx context.Context) error {
	tick := time.NewTicker(lookForPackages)
	defer tick.Stop()
	var swept time.Time
	tries := again{most: maxFetchWait}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if time.Since(swept) >= sweepEvery {
			swept = time.Now()
			r.sweepPackages()
		}
		if !tries.due() {
			continue
		}
		if err := r.fetchMissing(ctx); tries.ended(err) && ctx.Err() == nil {
			r.log.Warn("packages not fetched", "error", err)
		}
	}
}

func (r *Replica) sweepPackages() {
	keep := r.recorded()
	gone, err := r.files.Sweep(func(sum string) bool { _, named := keep[sum]; return named }, time.Now(), sweepAge)
	if err != nil {
		r.log.Warn("packages not removed", "error", err)
	}
	if len(gone) > 0 {
		r.log.Info("packages removed that nothing names", "packages", gone)
	}
}

func (r *Replica) fetchMissing(ctx context.Context) error {
	var all error
	list := r.wanted.list()
	for _, p := range r.recorded() {
		list = append(list, p)
	}
	for _, p := range list {
		if !r.files.Has(p.SHA256) {
			all = errors.Join(all, r.fetchPackage(ctx, p))
		}
	}
	return all
}

// fetchPackage asks the leader first, who has had it from its operator.
func (r *Replica) fetchPackage(ctx context.Context, p fleet.Package) error {
	leader, _ := r.raft.Leader()
	var from []registrar.Replica
	for _, m := range r.raft.Replicas() {
		switch m.ID {
		case r.self.ID:
		case leader:
			from = append([]registrar.Replica{m}, from...)
		default:
			from = append(from, m)
		}
	}
	err := errors.New("there is no other replica")
	for i, m := range from {
		ferr := r.fetchFrom(ctx, m, p)
		if ferr == nil {
			r.log.Info("package fetched", "sha256", p.SHA256, "arch", p.Arch, "from", m.ID)
			return nil
		}
		ferr = fmt.Errorf("package %s from replica %s: %w", p.SHA256[:heldDigits], m.ID, ferr)
		if err = errors.Join(err, ferr); i == 0 {
			err = ferr
		}
	}
	return err
}

func (r *Replica) fetchFrom(ctx context.Context, m registrar.Replica, p fleet.Package) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	dialCtx, stop := context.WithTimeout(ctx, relayDial)
	conn, err := r.port.Dial(dialCtx, m.Addr, transport.ALPNRelay, expectReplica(m.ID))
	stop()
	if err != nil {
		return err
	}
	defer conn.Close(transport.CodeOK, "") //nolint:errcheck // it may be over already
	in, err := r.files.Create()
	if err != nil {
		return err
	}
	defer in.Discard()
	sum := sha256.New()
	if err := sessions.FetchPackage(ctx, conn, p, io.MultiWriter(in, sum)); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("it sent another file, of the digest %s", got)
	}
	return in.Keep(p.SHA256)
}

// havePackage answers the leader, and fetches what is not here.
func (r *Replica) havePackage(p *fleet.Package) answer {
	if p == nil {
		return answer{Error: "the question names no package"}
	}
	if err := p.Check(); err != nil {
		return answer{Error: err.Error()}
	}
	if r.files.Has(p.SHA256) {
		return answer{Held: true}
	}
	r.wanted.put(*p)
	return answer{}
}

// AddPackage takes in a package: its signature is verified, its fields are read,
// and it is recorded once a majority of the voters has the file: holders.
func (r *Replica) AddPackage(ctx context.Context, signature string, body io.Reader, by string) (p state.Package, holders []fleet.ReplicaID, err error) {
	if _, err := r.current(); err != nil {
		return p, nil, err
	}
	if !r.adding.TryLock() {
		return p, nil, client.NewProblem(client.CodeUnavailable, "try again when that is done", "another package is being added")
	}
	defer r.adding.Unlock()
	if h := r.raft.Health(); h.Low || h.Fault != "" {
		return p, nil, client.NewProblem(client.CodeUnavailable, "make space on the disk of its data directory", "the replica %s is short of disk space (%d bytes are free)", r.self.ID, h.Free)
	}
	var keys []release.Key
	r.raft.Stale(func(s *state.State) {
		for id, k := range s.ReleaseKeys {
			keys = append(keys, release.Key{ID: id, Text: k.Key})
		}
	})
	if p, err = r.takeIn(signature, body, keys); err != nil {
		return p, nil, err
	}
	if holders, err = r.spread(ctx, p.Package); err != nil {
		return p, nil, err
	}
	results, err := r.raft.Propose(ctx, state.Command{Time: time.Now(), By: by, PutPackage: &p})
	if err != nil {
		return p, nil, err
	}
	return p, holders, results[0].Err()
}

func (r *Replica) takeIn(signature string, body io.Reader, keys []release.Key) (state.Package, error) {
	var none state.Package
	in, err := r.files.Create()
	if err != nil {
		return none, err
	}
	defer in.Discard()
	checked, err := release.Check(io.TeeReader(body, in), signature, keys)
	if err != nil {
		return none, err
	}
	file, err := in.Reread()
	if err != nil {
		return none, err
	}
	about, err := release.Read(file)
	if err != nil {
		return none, err
	}
	p := state.Package{
		Package: fleet.Package{Arch: about.Arch, SHA256: checked.SHA256, Size: checked.Size, Signature: signature},
		Version: about.Agent, Key: checked.Key,
	}
	return p, in.Keep(checked.SHA256)
}

// spread has the other voters fetch a package and waits until a majority of all
// has it.
func (r *Replica) spread(ctx context.Context, p fleet.Package) (holders []fleet.ReplicaID, err error) {
	tick := time.NewTicker(lookForPackages / 2)
	defer tick.Stop()
	for {
		voters, silent := 0, error(nil)
		holders = nil
		for _, m := range r.raft.Replicas() {
			if !m.Voter {
				continue
			}
			voters++
			switch got, err := r.ask(ctx, m.ID, question{Op: opPackage, Package: &p}); {
			case err != nil:
				silent = errors.Join(silent, err)
			case got.Held:
				holders = append(holders, m.ID)
			}
		}
		if len(holders) > voters/2 {
			return holders, nil
		}
		select {
		case <-ctx.Done():
			text := fmt.Sprintf("only %d of %d replicas have the package", len(holders), voters)
			if silent != nil {
				text += ": " + silent.Error()
			}
			return nil, client.NewProblem(client.CodeUnavailable, "look how they are: tender replica ls; then add it again", "%s", text)
		case <-tick.C:
		}
	}
}
