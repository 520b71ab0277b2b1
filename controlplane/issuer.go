package controlplane

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/authority"
)

// issuer is a replica's issuing authority. It is not changed once in use.
type issuer struct {
	key   crypto.Signer // made on this machine, never leaves it
	inter *x509.Certificate
	// cross is the old root's signature of the same key, for those who were away
	// while roots changed; nil for none.
	cross *x509.Certificate
	// round is the rotation that it was made for, 0 for none.
	round uint64

	root *x509.Certificate // of inter
	auth *authority.Authority
}

// open makes the issuer ready to sign below root.
func (i *issuer) open(trustDomain string, root *x509.Certificate, minLife time.Duration) (err error) {
	i.root = root
	i.auth, err = authority.New(authority.Config{
		TrustDomain: trustDomain, Root: root, Intermediate: i.inter, IntermediateKey: i.key, MinLife: minLife,
	})
	return err
}

// headerRound is where the issuer's file keeps its rotation.
const headerRound = "Rotation"

// saveIssuer writes key and certificates in one file, so that a crash leaves
// the old issuer or the new one.
func (d layout) saveIssuer(i *issuer) error {
	data, err := pki.EncodeKey(i.key)
	if err != nil {
		return fmt.Errorf("save intermediate: %w", err)
	}
	data = append(data, pem.EncodeToMemory(&pem.Block{
		Type: "CERTIFICATE", Headers: map[string]string{headerRound: strconv.FormatUint(i.round, 10)}, Bytes: i.inter.Raw,
	})...)
	if i.cross != nil {
		data = append(data, pemCert(i.cross)...)
	}
	if err := writeFile(d.issuer(), data); err != nil {
		return fmt.Errorf("save intermediate: %w", err)
	}
	// What the first version wrote is worth nothing any more.
	for _, old := range []string{d.interKey(), d.interCert()} {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the intermediate of before: %w", err)
		}
	}
	return nil
}

// loadIssuer reads what saveIssuer wrote, or the two files of the first version.
func (d layout) loadIssuer() (*issuer, error) {
	data, err := os.ReadFile(d.issuer())
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = os.ReadFile(d.interKey()); err == nil {
			var cert []byte
			cert, err = os.ReadFile(d.interCert())
			data = append(append(data, '\n'), cert...)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	i := &issuer{}
	if i.key, err = pki.ParseKey(data); err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return nil, fmt.Errorf("open authority: %w", err)
		case i.inter == nil:
			i.inter = cert
			i.round, _ = strconv.ParseUint(block.Headers[headerRound], 10, 64) // 0 of the first version
		default:
			i.cross = cert
		}
	}
	if i.inter == nil {
		return nil, fmt.Errorf("open authority: no certificate in %s", d.issuer())
	}
	return i, nil
}

// Root keys lie beside each other, each sealed with a passphrase of its own:
// root.key and passphrase are the first one's, root-N.key, root-N.passphrase and
// root-N.pem those that rotation N made.

// sealRoot writes a root key encrypted. The passphrase lies beside it until the
// operator takes both away.
func (d layout) sealRoot(keyFile, passphraseFile string, key crypto.Signer) error {
	passphrase := []byte(rand.Text())
	sealed, err := authority.SealKey(key, passphrase)
	if err != nil {
		return fmt.Errorf("seal root key: %w", err)
	}
	if err := writeFile(keyFile, sealed); err != nil {
		return fmt.Errorf("write root key: %w", err)
	}
	if err := writeFile(passphraseFile, passphrase); err != nil {
		return fmt.Errorf("write passphrase: %w", err)
	}
	return nil
}

// rootKeys lists the root keys that lie here with their passphrases.
func (d layout) rootKeys() (pairs [][2]string) {
	files, _ := filepath.Glob(d.path("root", "*.key")) // the pattern is good
	for _, file := range files {
		passphrase := strings.TrimSuffix(file, ".key") + ".passphrase"
		if file == d.rootKey() {
			passphrase = d.passphrase()
		}
		if _, err := os.Stat(passphrase); err == nil {
			pairs = append(pairs, [2]string{file, passphrase})
		}
	}
	return pairs
}

// rootKeyFiles tells files apart from those that lay there before.
func (d layout) rootKeyFiles() string {
	var all strings.Builder
	for _, pair := range d.rootKeys() {
		for _, file := range pair {
			if info, err := os.Stat(file); err == nil {
				fmt.Fprintf(&all, "%s %d %d\n", file, info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	return all.String()
}

var errNoRootKey = errors.New("the root key is not on this replica")

// openRoot opens the key of a root, if it and its passphrase are here.
func (d layout) openRoot(root *x509.Certificate) (crypto.Signer, error) {
	type public interface{ Equal(crypto.PublicKey) bool }
	for _, pair := range d.rootKeys() {
		sealed, err := os.ReadFile(pair[0])
		if err != nil {
			return nil, fmt.Errorf("open root key: %w", err)
		}
		passphrase, err := os.ReadFile(pair[1])
		if err != nil {
			return nil, fmt.Errorf("open root key: %w", err)
		}
		key, err := authority.OpenKey(sealed, bytes.TrimSpace(passphrase))
		if err != nil {
			return nil, fmt.Errorf("open root key %s: %w", pair[0], err)
		}
		if p, ok := root.PublicKey.(public); ok && p.Equal(key.Public()) {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%w: that of %s is wanted in %s", errNoRootKey, pki.Pin(root), d.path("root"))
}

// makeRoot makes the root of a rotation, or returns the one that it has made
// before: a leader that was not told may ask again.
func (d layout) makeRoot(trustDomain string, rotation uint64) (*x509.Certificate, error) {
	base := d.path("root", fmt.Sprintf("root-%d", rotation))
	root, err := readCert(base + ".pem")
	if err == nil {
		if _, err := d.openRoot(root); err == nil {
			return root, nil
		}
	}
	root, key, err := pki.NewRoot(trustDomain, time.Now(), rootLife)
	if err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	if err := d.sealRoot(base+".key", base+".passphrase", key); err != nil {
		return nil, err
	}
	// Last: with its certificate it is complete.
	if err := writeFile(base+".pem", pemCert(root)); err != nil {
		return nil, fmt.Errorf("write root: %w", err)
	}
	return root, nil
}

// issuerLife is how long an intermediate holds.
func (r *Replica) issuerLife() time.Duration {
	if r.cfg.IssuerLife > 0 {
		return r.cfg.IssuerLife
	}
	return intermediateLife
}
