package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"
)

// Judge says which replica showed chain, leaf first, if the chain holds at now
// and leads to a root that the judge trusts.
type Judge func(chain []*x509.Certificate, now time.Time) (Identity, error)

// Judge returns one that trusts the holder's newest bundle and takes replicas
// of its trust domain.
func (h *Holder) Judge() Judge {
	return func(chain []*x509.Certificate, now time.Time) (Identity, error) {
		creds, err := h.load()
		if err != nil {
			return Identity{}, err
		}
		id, err := verifyReplica(chain, creds.roots, now)
		if err == nil && id.TrustDomain != creds.of.Identity.TrustDomain {
			err = fmt.Errorf("%w: %s is not of %s", ErrForeign, id, creds.of.Identity.TrustDomain)
		}
		return id, err
	}
}

// PinJudge returns one that trusts the root of a join line's pin, which the
// chain must hold.
func PinJudge(pin string) Judge {
	return func(chain []*x509.Certificate, now time.Time) (Identity, error) {
		if len(chain) == 0 {
			return Identity{}, ErrNoCertificate
		}
		for _, c := range chain {
			if Pin(c) == pin && checkRoot(c) == nil {
				pool := x509.NewCertPool()
				pool.AddCert(c)
				return verifyReplica(chain, pool, now)
			}
		}
		return Identity{}, fmt.Errorf("%w: the line says %s, the server shows %s; "+
			"check the address, or ask for a new join line", ErrWrongPin, pin, Pin(chain[len(chain)-1]))
	}
}

// UntimedTLS returns the configuration of a machine that does not know the
// time: the replica's chain must hold at some time, that of its own end, and
// what is learned over the connection is to be judged again at the time that
// was learned. It shows no certificate, so it is good for enrol/1 only.
func UntimedTLS(judge Judge, alpn string) *tls.Config {
	cfg := clientConfig(alpn)
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return ErrNoCertificate
		}
		// A leaf ends with its issuer at the latest, so then all of it holds.
		_, err := judge(cs.PeerCertificates, cs.PeerCertificates[0].NotAfter)
		return err
	}
	return cfg
}
