package controlplane

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

// DefaultPort is the one port of a replica, UDP and TCP.
const DefaultPort = "7443"

// layout knows where things lie in a data directory.
type layout string

func (d layout) path(parts ...string) string {
	return filepath.Join(append([]string{string(d)}, parts...)...)
}

func (d layout) pki() string        { return d.path("pki") }
func (d layout) operator() string   { return d.path("operator") }
func (d layout) raft() string       { return d.path("raft") }
func (d layout) rootKey() string    { return d.path("root", "root.key") }
func (d layout) passphrase() string { return d.path("root", "passphrase") }
func (d layout) issuer() string     { return d.path("intermediate", "issuer.pem") }
func (d layout) packages() string   { return d.path("packages") }
func (d layout) interKey() string   { return d.path("intermediate", "key.pem") }
func (d layout) interCert() string  { return d.path("intermediate", "cert.pem") }

// identity is what a replica remembers of itself: replica.json.
type identity struct {
	ID          fleet.ReplicaID `json:"id"`
	TrustDomain string          `json:"trust_domain"`
	// Addr is where agents and the other replicas reach this one.
	Addr      string `json:"addr"`
	Bootstrap bool   `json:"bootstrap,omitempty"`
	// Member: it has held a log. Without that log it must not start again.
	Member bool `json:"member,omitempty"`
}

// ErrNotInitialised marks a data directory without a replica.
var ErrNotInitialised = errors.New("no replica here")

func (d layout) load() (identity, error) {
	var id identity
	data, err := os.ReadFile(d.path("replica.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return id, fmt.Errorf("%w: %s holds none; make one with 'tenderd init' or 'tenderd join LINE'", ErrNotInitialised, string(d))
	}
	if err != nil {
		return id, fmt.Errorf("read replica: %w", err)
	}
	if err := json.Unmarshal(data, &id); err != nil {
		return id, fmt.Errorf("read replica: %s: %w", d.path("replica.json"), err)
	}
	return id, nil
}

func (d layout) save(id identity) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("save replica: %w", err)
	}
	return writeFile(d.path("replica.json"), append(data, '\n'))
}

// HeldError says that a data directory has a replica, and which.
type HeldError struct {
	Dir, TrustDomain, Addr string
	ID                     fleet.ReplicaID
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s already holds replica %s of %s; start it with 'tenderd run', or choose another --data directory", e.Dir, e.ID, e.TrustDomain)
}

// fresh makes the data directory and refuses one that is in use.
func (d layout) fresh() error {
	if id, err := d.load(); err == nil {
		return &HeldError{Dir: string(d), ID: id.ID, TrustDomain: id.TrustDomain, Addr: id.Addr}
	} else if !errors.Is(err, ErrNotInitialised) {
		return err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("data directory: %w; give a writable one with --data", err)
	}
	probe := d.path(".writable")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		return fmt.Errorf("data directory: %w; give a writable one with --data", err)
	}
	return os.Remove(probe)
}

// writeFile writes a secret or record so that a crash leaves the old or the
// new content; when it returns, the new one, after a loss of power as well.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone already after the rename
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// resetKey is made once and kept, so that agents learn at once that this
// replica has restarted. The leader's takes its place, see keepResetKey.
func (d layout) resetKey() ([32]byte, error) {
	var key [32]byte
	data, err := os.ReadFile(d.path("reset.key"))
	switch {
	case err == nil && len(data) == len(key):
		copy(key[:], data)
		return key, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return key, fmt.Errorf("read reset key: %w", err)
	}
	_, _ = rand.Read(key[:]) // never fails
	return key, d.keepResetKey(key)
}

// keepResetKey stores the key for the next start: the replicas of a trio share
// one, so that each can end the sessions of an address that it took over.
func (d layout) keepResetKey(key [32]byte) error {
	if err := writeFile(d.path("reset.key"), key[:]); err != nil {
		return fmt.Errorf("write reset key: %w", err)
	}
	return nil
}

func pemCert(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func readCert(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b, _ := pem.Decode(data)
	if b == nil {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return x509.ParseCertificate(b.Bytes)
}

// CheckAddr completes an advertised address with the default port and refuses
// one that nobody could dial.
func CheckAddr(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = addr, DefaultPort
	}
	if host == "" || port == "" || port == "0" {
		return "", fmt.Errorf("address %q: give the name or IP address that agents and the other replicas reach this machine by, such as tender-1.example.org:%s", addr, DefaultPort)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "", fmt.Errorf("address %q means every address of this machine; give one that others can dial", addr)
	}
	return net.JoinHostPort(host, port), nil
}

// local is the identity of the replica's own certificates.
func (id identity) spiffe() pki.Identity {
	return pki.Identity{TrustDomain: id.TrustDomain, Kind: pki.KindReplica, ID: string(id.ID)}
}

// born keeps that this replica has a log now.
func (r *Replica) born() error {
	self := r.self
	self.Member = true
	if err := r.dir.save(self); err != nil {
		return err
	}
	r.self = self
	return nil
}
