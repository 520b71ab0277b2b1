package enroll

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"github.com/tenderfleet/tender/pki"
)

// Limits of a message. The length is checked before anything is allocated.
const (
	MaxRequest = 8 << 10
	MaxReply   = 64 << 10

	maxLabels   = 64
	maxLabel    = 253
	maxHost     = 253
	maxSecret   = 128
	maxReplicas = 16
	maxText     = 1024
)

// Capability counts what this end of enrol/1 understands.
//
//	1  2026-02  the first
//	2  2026-11  healing of lapsed certificates, and the time
//	3  2026-11  Reply.ReleaseKeys
const Capability = 3

// MaxReleaseKeys bounds Reply.ReleaseKeys.
const MaxReleaseKeys = 8

// ErrMessage marks a message that does not follow the protocol.
var ErrMessage = errors.New("bad enrolment message")

// Request asks for a certificate. The public key and the proof that the asker
// has the private one are in CSR; the request decides nothing else but the
// name it would like.
type Request struct {
	Kind     pki.Kind          `json:"kind"`
	Secret   string            `json:"secret"`
	Name     string            `json:"name"`
	Hostname string            `json:"hostname,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	CSR      []byte            `json:"csr"`
	// IntermediateCSR is a replica's: for its own issuing authority.
	IntermediateCSR []byte `json:"intermediate_csr,omitempty"`
	// Addr is where others reach a replica, HOST:PORT.
	Addr       string `json:"addr,omitempty"`
	Capability int    `json:"capability"`
	// Clock is the asker's time in Unix seconds; zero is not told.
	Clock int64 `json:"clock,omitempty"`
}

// NewRequest makes the request of line for the holder of key. The proposed
// name is made from hostname; the fleet may add to it when it is taken.
func NewRequest(line pki.JoinLine, key crypto.Signer, hostname string) (Request, error) {
	csr, err := pki.NewCSR(key)
	if err != nil {
		return Request{}, err
	}
	return Request{
		Kind: line.Kind, Secret: line.Secret, Name: CleanName(hostname, string(line.Kind)),
		Hostname: cleanText(hostname, maxHost), CSR: csr, Capability: Capability,
	}, nil
}

// CleanName makes an id out of a host name: its first label in lower case,
// with '-' for what an id may not hold. Nothing left gives fallback.
func CleanName(hostname, fallback string) string {
	name := strings.ToLower(strings.TrimSpace(hostname))
	if _, err := netip.ParseAddr(name); err != nil {
		name, _, _ = strings.Cut(name, ".")
	}
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, name)
	name = strings.TrimLeft(name, "-_.")
	name = strings.TrimRight(name[:min(len(name), 63)], "-_.")
	if name == "" {
		return fallback
	}
	return name
}

// Check reports whether r is well formed. It does not look at the requests for
// certificates.
func (r *Request) Check() error {
	if !r.Kind.Valid() {
		return fmt.Errorf("%w: kind %.20q", ErrMessage, string(r.Kind))
	}
	probe := pki.Identity{TrustDomain: "x", Kind: r.Kind, ID: r.Name}
	if err := probe.Check(); err != nil {
		return fmt.Errorf("%w: name: %w", ErrMessage, err)
	}
	if r.Secret == "" || len(r.Secret) > maxSecret {
		return fmt.Errorf("%w: secret of %d characters", ErrMessage, len(r.Secret))
	}
	if r.Hostname != cleanText(r.Hostname, maxHost) {
		return fmt.Errorf("%w: host name %.60q", ErrMessage, r.Hostname)
	}
	if len(r.Labels) > maxLabels {
		return fmt.Errorf("%w: %d labels, the limit is %d", ErrMessage, len(r.Labels), maxLabels)
	}
	for k, v := range r.Labels {
		if k == "" || k != cleanText(k, maxLabel) || v != cleanText(v, maxLabel) {
			return fmt.Errorf("%w: label %.60q=%.60q", ErrMessage, k, v)
		}
	}
	if r.Capability < 1 {
		return fmt.Errorf("%w: capability %d", ErrMessage, r.Capability)
	}
	return r.checkReplica()
}

func (r *Request) checkReplica() error {
	if r.Kind != pki.KindReplica {
		if r.Addr != "" || len(r.IntermediateCSR) != 0 {
			return fmt.Errorf("%w: address or authority of a %s", ErrMessage, r.Kind)
		}
		return nil
	}
	if err := checkAddr(r.Addr); err != nil {
		return fmt.Errorf("%w: address of a replica: %w", ErrMessage, err)
	}
	if len(r.IntermediateCSR) == 0 {
		return fmt.Errorf("%w: a replica without a request for its authority", ErrMessage)
	}
	return nil
}

// Reply is the answer: a refusal, or everything a member needs.
type Reply struct {
	Identity      string   `json:"identity,omitempty"`
	Chain         [][]byte `json:"chain,omitempty"`
	Bundle        []byte   `json:"bundle,omitempty"`
	BundleVersion uint64   `json:"bundle_version,omitempty"`
	// Replicas are the addresses to dial from now on.
	Replicas []string `json:"replicas,omitempty"`
	// Intermediate is a new replica's own issuing authority.
	Intermediate [][]byte `json:"intermediate,omitempty"`
	// ReleaseKeys are the public keys that an agent pins: packages of
	// tender-agent are installed when one of them has signed. Each is minisign's
	// text of a key, base64 on one line without a comment. Only who asks with
	// capability 3 gets them: before that, unknown fields are refused.
	ReleaseKeys []string `json:"release_keys,omitempty"`
	Refusal     *Refusal `json:"refusal,omitempty"`
}

// Check reports whether r is well formed. Whether it is true is Verify's to
// say.
func (r *Reply) Check() error {
	if r.Refusal != nil {
		return r.Refusal.check()
	}
	switch {
	case r.Identity == "" || len(r.Identity) > 512:
		return fmt.Errorf("%w: reply without identity", ErrMessage)
	case len(r.Chain) == 0 || len(r.Chain) > pki.MaxChain:
		return fmt.Errorf("%w: certificate chain of %d", ErrMessage, len(r.Chain))
	case len(r.Intermediate) > 1:
		return fmt.Errorf("%w: %d authorities", ErrMessage, len(r.Intermediate))
	case len(r.Replicas) > maxReplicas:
		return fmt.Errorf("%w: %d replicas", ErrMessage, len(r.Replicas))
	case len(r.ReleaseKeys) > MaxReleaseKeys:
		return fmt.Errorf("%w: %d release keys", ErrMessage, len(r.ReleaseKeys))
	}
	for _, a := range r.Replicas {
		if err := checkAddr(a); err != nil {
			return fmt.Errorf("%w: replica: %w", ErrMessage, err)
		}
	}
	for _, k := range r.ReleaseKeys {
		if !isReleaseKey(k) {
			return fmt.Errorf("%w: %.80q is no minisign public key", ErrMessage, k)
		}
	}
	return nil
}

// isReleaseKey reports whether s has the form of a key of minisign: two bytes
// that name Ed25519, eight of its id, 32 of the key (jedisct1.github.io/minisign,
// "Public key format").
func isReleaseKey(s string) bool {
	key, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil && len(key) == 42 && key[0] == 'E' && key[1] == 'd'
}

// Code says why a request was refused.
type Code string

// The refusals. Those in transient may pass by waiting or by asking elsewhere.
const (
	CodeBadRequest   Code = "bad_request"
	CodeTooOld       Code = "too_old"
	CodeClock        Code = "clock"
	CodeTokenUnknown Code = "token_unknown"
	CodeTokenUsed    Code = "token_used"
	CodeTokenExpired Code = "token_expired"
	CodeWrongKind    Code = "wrong_kind"
	CodeRevoked      Code = "revoked"
	CodeNoRootKey    Code = "no_root_key"
	CodeBusy         Code = "busy"
	CodeNotLeader    Code = "not_leader"
	CodeUnavailable  Code = "unavailable"
	CodeNotHealed    Code = "not_healed"
	CodeCloned       Code = "cloned"
)

// Refusal is the error of a request refused. Text is for people and says what
// to do.
type Refusal struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
	// Leader is where to ask instead, with CodeNotLeader.
	Leader string `json:"leader,omitempty"`
	// RetryMillis is how long to wait at least.
	RetryMillis int64 `json:"retry_millis,omitempty"`
}

func (r *Refusal) Error() string { return r.Text }

// Is lets errors.Is find a refusal by its code alone.
func (r *Refusal) Is(target error) bool {
	t, ok := target.(*Refusal)
	return ok && t.Code == r.Code && (t.Text == "" || t.Text == r.Text)
}

// Final reports whether asking again is pointless. An unknown code is final:
// it was made by a newer fleet, and a person has to look.
func (r *Refusal) Final() bool {
	switch r.Code {
	case CodeBusy, CodeNotLeader, CodeUnavailable:
		return false
	default:
		return true
	}
}

func (r *Refusal) check() error {
	if r.Code == "" || len(r.Code) > 32 || r.RetryMillis < 0 || r.RetryMillis > int64(time.Hour/time.Millisecond) {
		return fmt.Errorf("%w: refusal %.40q", ErrMessage, string(r.Code))
	}
	if r.Leader != "" {
		if err := checkAddr(r.Leader); err != nil {
			return fmt.Errorf("%w: leader: %w", ErrMessage, err)
		}
	}
	// The text goes to a terminal.
	r.Text = cleanText(r.Text, maxText)
	return nil
}

func checkAddr(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil || host == "" || port == "" || a != cleanText(a, maxHost+8) {
		return fmt.Errorf("%.60q is not HOST:PORT", a)
	}
	return nil
}

func cleanText(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "")
}

// KeyPin names the public key of a request: it tells a machine that repeats
// its request from another one with the same secret.
func KeyPin(spki []byte) string {
	sum := sha256.Sum256(spki)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// writeFrame sends m as a length and JSON, in one Write.
func writeFrame(w io.Writer, m any, limit int) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if len(body) > limit {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrMessage, len(body), limit)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

// readFrame reads what writeFrame wrote, refusing unknown fields and anything
// after the message.
func readFrame(r io.Reader, m any, limit int) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if int64(n) > int64(limit) {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrMessage, n, limit)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one message", ErrMessage)
	}
	return nil
}

func readRequest(r io.Reader) (Request, error) {
	var req Request
	if err := readFrame(r, &req, MaxRequest); err != nil {
		return Request{}, err
	}
	return req, req.Check()
}

func readReply(r io.Reader) (Reply, error) {
	var reply Reply
	if err := readFrame(r, &reply, MaxReply); err != nil {
		return Reply{}, err
	}
	return reply, reply.Check()
}
