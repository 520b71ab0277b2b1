package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Files of a credential directory.
const (
	fileKey    = "key.pem"
	fileCert   = "cert.pem"
	fileBundle = "bundle.pem"
	suffixNew  = ".new"
	// versionLine leads bundle.pem, so that version and roots change together.
	versionLine = "# tender trust bundle, version "
)

// ErrNotJoined marks a directory without a credential.
var ErrNotJoined = errors.New("no credential")

// LoadDir reads the credential that SaveDir wrote and finishes a SaveDir that
// a crash cut off. A directory without one gives ErrNotJoined; a key that
// others can read is refused.
func LoadDir(dir string) (*Credential, error) {
	key, err := readKey(filepath.Join(dir, fileKey))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s: this machine has not joined", ErrNotJoined, dir)
	}
	if err != nil {
		return nil, err
	}
	bundle, err := readBundle(filepath.Join(dir, fileBundle))
	if err != nil {
		return nil, err
	}
	cert := filepath.Join(dir, fileCert)
	c, err := readCredential(cert, key, bundle)
	if errors.Is(err, ErrKeyMismatch) || errors.Is(err, fs.ErrNotExist) {
		// The crash fell between the key's rename and the certificate's.
		next, nextErr := readCredential(cert+suffixNew, key, bundle)
		if nextErr == nil {
			c, err = next, os.Rename(cert+suffixNew, cert)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("load credential: %w", err)
	}
	return c, nil
}

func readCredential(path string, key crypto.Signer, bundle *Bundle) (*Credential, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := parseCerts(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	chain := make([][]byte, len(certs))
	for i, c := range certs {
		chain[i] = c.Raw
	}
	return NewCredential(chain, key, bundle)
}

func readKey(path string) (crypto.Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others can read the key %s (mode %04o): chmod 600 it, and join again if others had access", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseKey(data)
}

// ParseKey reads an unencrypted PKCS#8 PEM key.
func ParseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != blockKey {
		return nil, errors.New("key: no PEM block of a private key in it")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key: a %T cannot sign", parsed)
	}
	return key, nil
}

// EncodeKey is the inverse of ParseKey.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der}), nil
}

func readBundle(path string) (*Bundle, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	line, rest, _ := bytes.Cut(data, []byte("\n"))
	var version uint64
	if _, err := fmt.Sscanf(string(line), versionLine+"%d", &version); err != nil {
		return nil, fmt.Errorf("%s: no version in its first line", path)
	}
	return ParseBundle(rest, version)
}

// SaveDir writes c into dir, which it makes 0700, as files of mode 0600. A
// crash at any point leaves either the old credential or the new one.
func SaveDir(dir string, c *Credential) error {
	key, ok := c.Chain.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("save credential: its key cannot be written")
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return err
	}
	var certPEM []byte
	for _, der := range c.Chain.Certificate {
		certPEM = append(certPEM, pem.EncodeToMemory(&pem.Block{Type: blockCert, Bytes: der})...)
	}
	bundlePEM := append(fmt.Appendf(nil, "%s%d\n", versionLine, c.Bundle.Version), c.Bundle.PEM()...)
	if err := makeDir(dir); err != nil {
		return err
	}
	// All new files are on disk before the first takes its name; the key goes
	// before the certificate, which is what LoadDir relies on.
	files := []struct {
		name string
		data []byte
	}{{fileBundle, bundlePEM}, {fileKey, keyPEM}, {fileCert, certPEM}}
	for _, f := range files {
		if err := writeSynced(filepath.Join(dir, f.name+suffixNew), f.data); err != nil {
			return fmt.Errorf("save credential: %w", err)
		}
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("save credential: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if err := os.Rename(path+suffixNew, path); err != nil {
			return fmt.Errorf("save credential: %w", err)
		}
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("save credential: %w", err)
	}
	return nil
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save credential: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("save credential: %w", err)
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	// A leftover of a crash could have another mode.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
