package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"strings"
	"time"
)

const (
	linePrefix = "tender1."
	maxLine    = 4096
	maxAddrs   = 16
	maxSecret  = 128
	// secretBytes is the strength of a join secret: 256 bits, not guessable.
	secretBytes = 32
)

// ErrJoinLine marks text that is not a whole join line.
var ErrJoinLine = errors.New("not a valid join line")

// JoinLine is what an operator hands to a machine that shall join: where the
// replicas are, which root they must show, and a secret that admits once. It is
// one word, safe to paste. Whoever has it can join, so treat it as a password.
type JoinLine struct {
	Kind        Kind      `json:"k"`
	Addrs       []string  `json:"a"`
	Pin         string    `json:"p"`
	Secret      string    `json:"s"`
	TrustDomain string    `json:"t"`
	Expires     time.Time `json:"e"`
}

// NewSecret returns a fresh join secret. Only HashSecret of it is ever stored.
func NewSecret() string {
	b := make([]byte, secretBytes)
	rand.Read(b) // never fails: crypto/rand ends the process instead
	return base64.RawURLEncoding.EncodeToString(b)
}

// HashSecret returns the hex SHA-256 of a join secret.
func HashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// String returns the line as one word. A checksum in it tells a line that was
// cut or mistyped from one that is merely unknown.
func (l JoinLine) String() string {
	l.Expires = l.Expires.UTC().Truncate(time.Second)
	body, err := json.Marshal(l)
	if err != nil {
		return "" // a time outside of years 0 to 9999; Check refuses it
	}
	body = binary.BigEndian.AppendUint32(body, crc32.ChecksumIEEE(body))
	return linePrefix + base64.RawURLEncoding.EncodeToString(body)
}

// ParseJoinLine reads what String wrote. White space anywhere is ignored, since
// terminals wrap long lines.
func ParseJoinLine(s string) (JoinLine, error) {
	s = strings.Join(strings.Fields(s), "")
	if s == "" {
		return JoinLine{}, fmt.Errorf("%w: it is empty", ErrJoinLine)
	}
	if len(s) > maxLine {
		return JoinLine{}, fmt.Errorf("%w: %d characters, the limit is %d", ErrJoinLine, len(s), maxLine)
	}
	word, ok := strings.CutPrefix(s, linePrefix)
	if !ok {
		if v, _, dot := strings.Cut(s, "."); dot && strings.HasPrefix(v, "tender") {
			return JoinLine{}, fmt.Errorf("%w: it is of form %.20q, this program reads %q; use the same version as the replicas",
				ErrJoinLine, v, strings.TrimSuffix(linePrefix, "."))
		}
		return JoinLine{}, fmt.Errorf("%w: it begins with %.12q instead of %q; paste the whole line", ErrJoinLine, s, linePrefix)
	}
	body, err := base64.RawURLEncoding.Strict().DecodeString(word)
	if err != nil || len(body) < 4 {
		return JoinLine{}, fmt.Errorf("%w: it is damaged or cut short; paste the whole line", ErrJoinLine)
	}
	body, sum := body[:len(body)-4], body[len(body)-4:]
	if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(sum) {
		return JoinLine{}, fmt.Errorf("%w: its checksum is wrong, so it is damaged or cut short; paste the whole line", ErrJoinLine)
	}
	var l JoinLine
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return JoinLine{}, fmt.Errorf("%w: %w", ErrJoinLine, err)
	}
	return l, l.Check()
}

// Check reports whether every part of l is well formed. Whether it has expired
// is the replicas' to say: this machine's clock may be the one that is wrong.
func (l JoinLine) Check() error {
	if !l.Kind.Valid() {
		return fmt.Errorf("%w: kind %.20q", ErrJoinLine, string(l.Kind))
	}
	if err := CheckTrustDomain(l.TrustDomain); err != nil {
		return fmt.Errorf("%w: %w", ErrJoinLine, err)
	}
	if n := len(l.Addrs); n == 0 || n > maxAddrs {
		return fmt.Errorf("%w: %d addresses, allowed are 1 to %d", ErrJoinLine, n, maxAddrs)
	}
	for _, a := range l.Addrs {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return fmt.Errorf("%w: address %.60q is not HOST:PORT", ErrJoinLine, a)
		}
	}
	sum, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(l.Pin, "sha256:"))
	if err != nil || len(sum) != sha256.Size || !strings.HasPrefix(l.Pin, "sha256:") {
		return fmt.Errorf("%w: pin %.60q is not the sha256 of a root", ErrJoinLine, l.Pin)
	}
	if l.Secret == "" || len(l.Secret) > maxSecret {
		return fmt.Errorf("%w: secret of %d characters", ErrJoinLine, len(l.Secret))
	}
	if y := l.Expires.Year(); l.Expires.IsZero() || y < 1970 || y > 9999 {
		return fmt.Errorf("%w: it has no expiry", ErrJoinLine)
	}
	return nil
}
