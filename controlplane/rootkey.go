package controlplane

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/transport/fleet"
)

// The root key lies sealed on one replica, or on none. Whichever replica leads
// has it used over the replicas' own sessions, by questions that the holder
// answers only as far as its own copy of the state bears them out.

// What a replica asks the holder of the root key.
const (
	opHolds = "holds" // whether it can open the key of a root
	opRoot  = "root"  // to make the new root of a rotation
	opSign  = "sign"  // to sign the asker's intermediate
	opJoin  = "join"  // the leader's: to sign the intermediate of a replica that joins
)

// question names the root with opHolds (its pin), the rotation with opRoot, and
// who joins with opJoin.
type question struct {
	Op       string          `json:"op"`
	Root     string          `json:"root,omitempty"`
	Rotation uint64          `json:"rotation,omitempty"`
	Joiner   fleet.ReplicaID `json:"joiner,omitempty"`
	CSR      []byte          `json:"csr,omitempty"`
	// Package is what opPackage is about.
	Package *fleet.Package `json:"package,omitempty"`
}

// answer holds certificates in DER, or why there are none.
type answer struct {
	Root         []byte `json:"root,omitempty"`
	Intermediate []byte `json:"intermediate,omitempty"`
	Cross        []byte `json:"cross,omitempty"`
	Error        string `json:"error,omitempty"`
	// Held: the replica has the package.
	Held bool `json:"held,omitempty"`
}

// answerReplica answers another replica, or this one itself. Who asks is known
// by certificate; that it is to have what it asks for, the state says.
func (r *Replica) answerReplica(ctx context.Context, from fleet.ReplicaID, data []byte) []byte {
	var q question
	var a answer
	err := json.Unmarshal(data, &q)
	switch {
	case err == nil && q.Op == opPackage:
		a = r.havePackage(q.Package)
	case err == nil:
		a, err = r.grant(ctx, from, q)
	}
	if err != nil {
		r.log.Warn("root key not used", "for", from, "what", q.Op, "error", err)
		a = answer{Error: err.Error()}
	}
	out, err := json.Marshal(a)
	if err != nil {
		return []byte("{}") // it holds nothing that cannot be encoded
	}
	return out
}

func (r *Replica) grant(ctx context.Context, from fleet.ReplicaID, q question) (answer, error) {
	if err := r.awaitBorneOut(ctx, from, q); err != nil {
		return answer{}, err
	}
	r.granting.Lock() // opening a sealed key is dear: one at a time
	defer r.granting.Unlock()
	// It may have waited for the lock, and the state have changed.
	if err := r.borneOut(from, q); err != nil {
		return answer{}, err
	}
	switch q.Op {
	case opHolds:
		root, err := r.rootOf(q.Root)
		if err != nil {
			return answer{}, err
		}
		_, err = r.openRoot(root)
		return answer{}, err
	case opRoot:
		root, err := r.dir.makeRoot(r.self.TrustDomain, q.Rotation)
		if err != nil {
			return answer{}, err
		}
		r.log.Info("new root made", "rotation", q.Rotation, "pin", pki.Pin(root))
		return answer{Root: root.Raw}, nil
	case opSign:
		return r.signFor(from, q.CSR)
	case opJoin:
		return r.signJoiner(q.CSR)
	}
	return answer{}, fmt.Errorf("this version does not know the question %.20q", q.Op)
}

// borneOut reports what a question lacks in this replica's own copy of the state.
func (r *Replica) borneOut(from fleet.ReplicaID, q question) error {
	var asker, joiner *state.Replica
	var rot *state.Rotation
	r.raft.Stale(func(s *state.State) { asker, joiner, rot = s.Replicas[from], s.Replicas[q.Joiner], s.Rotation })
	if asker == nil {
		return fmt.Errorf("as far as this replica knows, there is no replica %s", from)
	}
	switch q.Op {
	case opHolds:
		_, err := r.rootOf(q.Root)
		return err
	case opRoot:
		if !rot.Active() || rot.Number != q.Rotation || rot.Phase != state.RotationMaking || rot.Holder != r.self.ID {
			return errors.New("this replica does not know that a new root is wanted of it")
		}
	case opJoin:
		lead, _ := r.raft.Leader()
		member := slices.ContainsFunc(r.raft.Replicas(), func(m registrar.Replica) bool { return m.ID == q.Joiner })
		return mayJoin(from, lead, q.Joiner, joiner, member)
	}
	return nil
}

// awaitCatchUp is how long the holder of the root key waits for the entries of
// the log that bear a question out: who asks may have them first, and a replica
// that has just started has none until it hears from the leader.
const awaitCatchUp = 3 * time.Second

// awaitBorneOut returns once this replica's state bears a question out; the
// error says what it lacks.
func (r *Replica) awaitBorneOut(ctx context.Context, from fleet.ReplicaID, q question) error {
	ctx, cancel := context.WithTimeout(ctx, awaitCatchUp)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := r.borneOut(from, q)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// rootOf is a trusted root by its pin.
func (r *Replica) rootOf(pin string) (*x509.Certificate, error) {
	roots := r.bundle().Roots
	if i := slices.IndexFunc(roots, func(c *x509.Certificate) bool { return pki.Pin(c) == pin }); i >= 0 {
		return roots[i], nil
	}
	return nil, fmt.Errorf("the root %.80q is not trusted here", pin)
}

// ask puts a question to a replica.
func (r *Replica) ask(ctx context.Context, id fleet.ReplicaID, q question) (answer, error) {
	var a answer
	err := r.raft.Ask(ctx, id, q, &a)
	if err == nil && a.Error != "" {
		err = fmt.Errorf("replica %s: %s", id, a.Error)
	}
	return a, err
}

// checkRootKey finds out at the start whether the key that lies here can be
// opened. None need lie here.
func (r *Replica) checkRootKey() error {
	r.granting.Lock()
	defer r.granting.Unlock()
	_, err := r.openRoot(r.issuer.Load().root)
	if errors.Is(err, errNoRootKey) {
		return nil
	}
	return err
}

// keepOpened is how long an opened root key is kept in memory: a join asks twice
// for it, and to open it takes a small machine a second.
const keepOpened = 30 * time.Second

// openedKey is a root key that was opened a moment ago.
type openedKey struct {
	key   crypto.Signer
	root  *x509.Certificate
	files string // what lay there then
	until time.Time
}

// openRoot is layout.openRoot; granting is held. A key that has been taken away
// meanwhile is not used.
func (r *Replica) openRoot(root *x509.Certificate) (crypto.Signer, error) {
	files := r.dir.rootKeyFiles()
	if o := r.openedKey; o.key != nil && o.root.Equal(root) && o.files == files && time.Now().Before(o.until) {
		return o.key, nil
	}
	key, err := r.dir.openRoot(root)
	if err != nil {
		return nil, err
	}
	r.openedKey = openedKey{key, root, files, time.Now().Add(keepOpened)}
	return key, nil
}

// forgetRootKey drops an opened key whose time is over.
func (r *Replica) forgetRootKey() {
	r.granting.Lock()
	defer r.granting.Unlock()
	if !time.Now().Before(r.openedKey.until) {
		r.openedKey = openedKey{}
	}
}

// noHolderError says that no replica can use the root key now, and why.
type noHolderError struct {
	pin    string
	last   []fleet.ReplicaID // who held it last
	silent []fleet.ReplicaID
	wrong  []string // what holders said
}

func (e *noHolderError) Error() string {
	var text strings.Builder
	text.WriteString("no replica that answers holds the root key " + e.pin)
	for _, id := range e.last {
		why := ", and it lies there no more"
		if slices.Contains(e.silent, id) {
			why = " and does not answer: start tenderd there"
		}
		fmt.Fprintf(&text, "; %s held it last%s", id, why)
	}
	for _, id := range e.silent {
		if !slices.Contains(e.last, id) {
			fmt.Fprintf(&text, "; %s does not answer either", id)
		}
	}
	for _, said := range e.wrong {
		text.WriteString("; " + said)
	}
	return text.String()
}

// putBack says how the root key becomes usable, and for how long it has to be.
func putBack(howLong string) string {
	return "put the root key and its passphrase back " + howLong +
		": DATA/root/root.key and DATA/root/passphrase (of a later root root-N.key and root-N.passphrase) in the data directory of a running replica; no restart is needed"
}

// rootHolder finds the replica that can open the key of a root. The error is a
// *noHolderError where there is none.
func (r *Replica) rootHolder(ctx context.Context, root *x509.Certificate) (fleet.ReplicaID, error) {
	none := &noHolderError{pin: pki.Pin(root)}
	replicas := r.raft.Replicas()
	said := make([]*registrar.About, len(replicas))
	var wg sync.WaitGroup
	for i, m := range replicas {
		wg.Go(func() {
			if about, err := r.raft.About(ctx, m.ID); err == nil {
				said[i] = &about
			}
		})
	}
	wg.Wait()
	for i, m := range replicas {
		switch about := said[i]; {
		case about == nil:
			none.silent = append(none.silent, m.ID)
		case about.RootKey:
			if _, err := r.ask(ctx, m.ID, question{Op: opHolds, Root: none.pin}); err != nil {
				none.wrong = append(none.wrong, err.Error())
				continue
			}
			return m.ID, nil
		}
	}
	if len(none.wrong) == 0 {
		r.raft.Stale(func(s *state.State) {
			for _, id := range state.SortedKeys(s.Replicas) {
				if s.Replicas[id].RootKey {
					none.last = append(none.last, id)
				}
			}
		})
	}
	return "", none
}

// joinSigner finds who holds the key of the root that signs now, for a replica
// that joins here.
func (r *Replica) joinSigner(ctx context.Context) (enroll.SignAuthority, error) {
	root, _, err := r.signingRoots()
	if err != nil {
		return nil, err
	}
	holder, err := r.rootHolder(ctx, root)
	if none, ok := errors.AsType[*noHolderError](err); ok {
		return nil, &enroll.Refusal{Code: enroll.CodeNoRootKey, Text: fmt.Sprintf("a new replica is signed with the root key, and %s; or %s; the join line is still good", none, putBack("for the join"))}
	}
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, id pki.Identity, csr []byte) (*x509.Certificate, error) {
		got, err := r.ask(ctx, holder, question{Op: opJoin, Joiner: fleet.ReplicaID(id.ID), CSR: csr})
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(got.Intermediate)
	}, nil
}

// mayJoin reports why the root key is not used for a joiner with the record rec,
// nil where it may be. Who leads could admit anybody by the log, so it gets no
// more than it could have had, and all see that; who does not lead gets nothing.
// A replica has its first authority by its join; the next ones it asks for itself.
func mayJoin(from, leader, joiner fleet.ReplicaID, rec *state.Replica, member bool) error {
	switch {
	case leader == "" || from != leader:
		return fmt.Errorf("as far as this replica knows, %s does not lead", from)
	case rec == nil:
		return fmt.Errorf("as far as this replica knows, no replica %s has been admitted", joiner)
	case member || len(rec.Intermediate) > 0:
		return fmt.Errorf("replica %s has joined already", joiner)
	}
	return nil
}

// signJoiner signs the first intermediate of a replica.
func (r *Replica) signJoiner(csr []byte) (answer, error) {
	root, _, err := r.signingRoots()
	if err != nil {
		return answer{}, err
	}
	key, err := r.openRoot(root)
	if err != nil {
		return answer{}, err
	}
	inter, err := pki.SignIntermediate(root, key, csr, r.self.TrustDomain, time.Now(), r.issuerLife())
	if err != nil {
		return answer{}, err
	}
	return answer{Intermediate: inter.Raw}, nil
}
