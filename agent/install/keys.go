package install

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"aead.dev/minisign"

	"github.com/tenderfleet/tender/transport/fleet"
)

// KeysFile has the release keys that the machine trusts: minisign's own format,
// one after the other, or just their lines that begin with RW.
const KeysFile = "/etc/tender/release.pub"

// Bounds of what is read of it.
const (
	maxKeys     = 32
	maxKeysFile = 64 << 10
)

var (
	// ErrNoKeys: nobody has said whose packages to trust.
	ErrNoKeys = errors.New("no release key is known")
	// ErrUntrusted: a package is not signed by a key that is trusted.
	ErrUntrusted = errors.New("not signed by a trusted release key")
	// ErrAltered: a package is not the one that was described.
	ErrAltered = errors.New("not the package that was described")
)

// Keys are public keys of minisign.
type Keys []minisign.PublicKey

// ParseKeys reads keys, one a line; comments and empty lines are skipped.
func ParseKeys(text []byte) (Keys, error) {
	var keys Keys
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "untrusted comment:") {
			continue
		}
		var k minisign.PublicKey
		if err := k.UnmarshalText([]byte(line)); err != nil {
			return nil, fmt.Errorf("line %d is no public key of minisign", n)
		}
		if keys = append(keys, k); len(keys) > maxKeys {
			return nil, fmt.Errorf("more than %d keys", maxKeys)
		}
	}
	return keys, lines.Err()
}

// ReadKeys reads a file of keys. Without any it returns ErrNoKeys.
func ReadKeys(path string) (Keys, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noKeys(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read release keys: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened to read
	text, err := io.ReadAll(io.LimitReader(f, maxKeysFile))
	if err != nil {
		return nil, fmt.Errorf("read release keys: %w", err)
	}
	keys, err := ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(keys) == 0 {
		return nil, noKeys(path)
	}
	return keys, nil
}

func noKeys(path string) error {
	return fmt.Errorf("%w: put the public key that packages are signed by, minisign.pub, on the machine as %s", ErrNoKeys, path)
}

// Text is the keys as ParseKeys and minisign itself read them.
func (keys Keys) Text() []byte {
	var out []byte
	for _, k := range keys {
		text, _ := k.MarshalText() // never fails
		out = append(append(out, text...), '\n')
	}
	return out
}

// Has reports whether a key is one of them.
func (keys Keys) Has(key minisign.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k minisign.PublicKey) bool { return k.Equal(key) })
}

// Pin writes keys to a file, unless it is there already: whoever comes first is
// trusted, once. It reports whether it has written them.
func Pin(path string, keys Keys) (bool, error) {
	if _, err := os.Lstat(path); err == nil {
		return false, nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".release.pub-*")
	if err != nil {
		return false, fmt.Errorf("pin release keys: %w", err)
	}
	_, err = tmp.Write(keys.Text())
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Link(tmp.Name(), path) // which a rename would replace
	}
	if gone := os.Remove(tmp.Name()); err == nil {
		err = gone
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("pin release keys: %w", err)
	}
	return true, syncDir(filepath.Dir(path))
}

// Knows reports an error unless a signature claims to be by one of the keys:
// what is not worth fetching a package for.
func (keys Keys) Knows(signature string) error {
	_, err := keys.find(signature)
	return err
}

func (keys Keys) find(signature string) (minisign.PublicKey, error) {
	var s minisign.Signature
	if err := s.UnmarshalText([]byte(signature)); err != nil {
		return minisign.PublicKey{}, fmt.Errorf("%w: what came as its signature is none of minisign", ErrUntrusted)
	}
	if s.Algorithm != minisign.HashEdDSA {
		return minisign.PublicKey{}, fmt.Errorf("%w: its signature is of minisign's legacy form; sign it again without -l", ErrUntrusted)
	}
	var have []string
	for _, k := range keys {
		if k.ID() == s.KeyID {
			return k, nil
		}
		have = append(have, fmt.Sprintf("%X", k.ID()))
	}
	return minisign.PublicKey{}, fmt.Errorf("%w: it is signed by %X, and %s has %s", ErrUntrusted, s.KeyID, KeysFile, strings.Join(have, ", "))
}

// Verify reads a package to its end and reports an error unless it is the one
// described, signed by one of the keys: ErrAltered, ErrUntrusted, or what
// reading says.
func (keys Keys) Verify(file io.Reader, p fleet.Package) error {
	key, err := keys.find(p.Signature)
	if err != nil {
		return err
	}
	sum := sha256.New()
	signed := minisign.NewReader(io.TeeReader(io.LimitReader(file, p.Size+1), sum))
	n, err := io.Copy(io.Discard, signed)
	switch {
	case err != nil:
		return fmt.Errorf("read the package: %w", err)
	case n != p.Size:
		return fmt.Errorf("%w: it has not %d bytes", ErrAltered, p.Size)
	case hex.EncodeToString(sum.Sum(nil)) != p.SHA256:
		return fmt.Errorf("%w: its SHA-256 is %x", ErrAltered, sum.Sum(nil))
	case !signed.Verify(key, []byte(p.Signature)):
		return fmt.Errorf("%w: the signature by %X is of something else", ErrUntrusted, key.ID())
	}
	return nil
}

// syncDir makes names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
