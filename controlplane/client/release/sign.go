package release

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"aead.dev/minisign"

	"github.com/tenderfleet/tender/transport/fleet"
)

// The kinds of errors of this package.
var (
	// ErrKey marks a text that is no public key.
	ErrKey = errors.New("not a minisign public key")
	// ErrSignature marks a signature that no key of the fleet has made, of this
	// file.
	ErrSignature = errors.New("bad signature")
	// ErrPackage marks a file that is no package of tender-agent.
	ErrPackage = errors.New("not a package of tender-agent")
)

// Key is a public key.
type Key struct {
	ID      string // minisign's number of it, 16 hex digits in capitals
	Text    string // one line of base64
	Comment string // for people; it is not signed
}

const untrusted = "untrusted comment: "

// ParseKey reads the file that `minisign -G` writes, or its second line alone.
func ParseKey(text string) (Key, error) {
	var k Key
	var key minisign.PublicKey
	lines := strings.SplitN(strings.TrimSpace(text), "\n", 3)
	if c, ok := strings.CutPrefix(strings.TrimSpace(lines[0]), untrusted); ok {
		k.Comment, lines = c, lines[1:]
	}
	if len(text) > fleet.MaxSignature || len(lines) != 1 {
		return k, fmt.Errorf("%w: give the file that ends in .pub, of minisign -G", ErrKey)
	}
	if err := key.UnmarshalText([]byte(strings.TrimSpace(lines[0]))); err != nil {
		return k, fmt.Errorf("%w: give the file that ends in .pub, of minisign -G (%w)", ErrKey, err)
	}
	k.ID, k.Text = number(key.ID()), key.String()
	if len(k.Comment) > 128 {
		k.Comment = strings.ToValidUTF8(k.Comment[:128], "")
	}
	return k, nil
}

func number(id uint64) string { return fmt.Sprintf("%016X", id) }

// Checked is a file whose signature is good.
type Checked struct {
	SHA256 string // in hex
	Size   int64
	Key    string // the ID of the key that signed it
}

// Check reads a file to its end and verifies its signature against the keys, of
// which it names one. It reads no more than fleet.MaxPackageSize.
func Check(file io.Reader, signature string, keys []Key) (Checked, error) {
	var sig minisign.Signature
	if err := sig.UnmarshalText([]byte(signature)); err != nil || len(signature) > fleet.MaxSignature {
		return Checked{}, fmt.Errorf("%w: it is not one of minisign; sign the package with: minisign -Sm FILE.deb", ErrSignature)
	}
	if sig.Algorithm != minisign.HashEdDSA {
		return Checked{}, fmt.Errorf("%w: it is of minisign's legacy form; sign the package without -l", ErrSignature)
	}
	id := number(sig.KeyID)
	var key minisign.PublicKey
	known := false
	for _, k := range keys {
		if k.ID == id {
			known = key.UnmarshalText([]byte(k.Text)) == nil
		}
	}
	if !known {
		return Checked{}, fmt.Errorf("%w: it was made by the key %s, which is no release key of this fleet; add it if you trust it: tender upgrade key add FILE.pub", ErrSignature, id)
	}
	sum := sha256.New()
	signed := minisign.NewReader(io.TeeReader(io.LimitReader(file, fleet.MaxPackageSize+1), sum))
	n, err := io.Copy(io.Discard, signed)
	switch {
	case err != nil:
		return Checked{}, fmt.Errorf("read the package: %w", err)
	case n > fleet.MaxPackageSize:
		return Checked{}, fmt.Errorf("%w: it has more than %d bytes", ErrPackage, fleet.MaxPackageSize)
	case !signed.Verify(key, []byte(signature)):
		return Checked{}, fmt.Errorf("%w: the key %s has signed something else than this file", ErrSignature, id)
	}
	return Checked{SHA256: hex.EncodeToString(sum.Sum(nil)), Size: n, Key: id}, nil
}
