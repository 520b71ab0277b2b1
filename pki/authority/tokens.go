package authority

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"github.com/smallstep/certificates/db"
	"go.step.sm/crypto/jose"

	"github.com/tenderfleet/tender/pki"
)

const (
	tokenLife = 30 * time.Second
	// tokenLeeway is what the authority adds to a token's life.
	tokenLeeway = time.Minute
	// maxUsed bounds the memory of used tokens: more signatures than this
	// within a token's life are refused. It is some 109 a second.
	maxUsed = 16384
)

// mint makes the authority's tokens. Its key is made at start and is nowhere
// but in this process.
type mint struct {
	key    *jose.JSONWebKey
	signer jose.Signer
}

func newMint() (*mint, error) {
	key, err := jose.GenerateJWK("EC", "P-256", "ES256", "sig", "", 0)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: key.Key},
		new(jose.SignerOptions).WithType("JWT").WithHeader("kid", key.KeyID),
	)
	if err != nil {
		return nil, err
	}
	return &mint{key: key, signer: signer}, nil
}

func (m *mint) public() *jose.JSONWebKey {
	pub := m.key.Public()
	return &pub
}

type claims struct {
	jose.Claims
	SANs    []string     `json:"sans"`
	Use     []string     `json:"use"`
	Confirm confirmation `json:"cnf"`
}

type confirmation struct {
	CSR string `json:"x5rt#S256"`
}

// make returns a token for id, good for one signature on this one request.
func (m *mint) make(id pki.Identity, csr *x509.CertificateRequest) (string, error) {
	now := time.Now()
	return jose.Signed(m.signer).Claims(claims{
		Claims: jose.Claims{
			ID:        rand.Text(),
			Issuer:    provisionerName,
			Subject:   id.ID,
			Audience:  jose.Audience{"https://" + audienceHost + "/1.0/sign"},
			IssuedAt:  jose.NewNumericDate(now),
			NotBefore: jose.NewNumericDate(now),
			Expiry:    jose.NewNumericDate(now.Add(tokenLife)),
		},
		SANs:    []string{id.String()},
		Use:     useNames(id.Kind),
		Confirm: confirmation{CSR: fingerprint(csr)},
	}).CompactSerialize()
}

// used is the authority's database, of which nothing is needed but that one
// token signs once. Tokens are made and used by the same process, so memory
// does; join secrets, which every replica must see used, are the registry's.
type used struct {
	mu    sync.Mutex
	seen  map[string]bool
	queue []usedToken // in the order of use, so of end too
}

type usedToken struct {
	id  string
	end time.Time
}

var _ db.AuthDB = (*used)(nil)

func newUsed() *used { return &used{seen: make(map[string]bool)} }

var errTooMany = errors.New("too many signatures at once; try again in a minute")

// UseToken reports whether id is used for the first time.
func (u *used) UseToken(id, _ string) (bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	done := 0
	for done < len(u.queue) && now.After(u.queue[done].end) {
		delete(u.seen, u.queue[done].id)
		done++
	}
	u.queue = u.queue[done:]
	if u.seen[id] {
		return false, nil
	}
	if len(u.queue) >= maxUsed {
		return false, errTooMany
	}
	u.seen[id] = true
	u.queue = append(u.queue, usedToken{id, now.Add(tokenLife + 2*tokenLeeway)})
	return true, nil
}

// IsRevoked says yes to everything: only the authority's renewal asks, and it
// must not get through.
func (u *used) IsRevoked(string) (bool, error) { return true, nil }

// The rest of the database is not there.

func (u *used) IsSSHRevoked(string) (bool, error)          { return true, nil }
func (u *used) Revoke(*db.RevokedCertificateInfo) error    { return db.ErrNotImplemented }
func (u *used) RevokeSSH(*db.RevokedCertificateInfo) error { return db.ErrNotImplemented }
func (u *used) IsSSHHost(string) (bool, error)             { return false, db.ErrNotImplemented }
func (u *used) GetSSHHostPrincipals() ([]string, error)    { return nil, db.ErrNotImplemented }
func (u *used) Shutdown() error                            { return nil }
func (u *used) GetCertificate(string) (*x509.Certificate, error) {
	return nil, db.ErrNotImplemented
}
