package transport

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// ErrNoExporter: what carries the session has no key to export from.
var ErrNoExporter = errors.New("the session exports no keys")

// Exporter returns n bytes that both ends of s, and nobody else, can work out
// for label (RFC 8446, section 7.5). A signature over them holds on this one
// connection alone: who carries it to another one finds other bytes there.
func Exporter(s Session, label string, n int) ([]byte, error) {
	switch s := s.(type) {
	case interface{ tlsState() tls.ConnectionState }:
		state := s.tlsState()
		out, err := state.ExportKeyingMaterial(label, nil, n)
		if err != nil {
			return nil, fmt.Errorf("export key: %w", err)
		}
		return out, nil
	case interface {
		export(label string, n int) ([]byte, error)
	}:
		return s.export(label, n)
	}
	return nil, ErrNoExporter
}

// PeerChain is the certificate chain that the other side has shown, leaf
// first; nil where there is none: of a client on enrol/1, and in memory.
func PeerChain(s Session) []*x509.Certificate {
	if t, ok := s.(interface{ tlsState() tls.ConnectionState }); ok {
		return t.tlsState().PeerCertificates
	}
	return nil
}

func (s *quicSession) tlsState() tls.ConnectionState { return s.conn.ConnectionState().TLS }

func (s *tcpSession) tlsState() tls.ConnectionState { return s.conn.ConnectionState() }

func (s *memSession) export(label string, n int) ([]byte, error) {
	return hkdf.Key(sha256.New, s.shared.secret[:], nil, label, n)
}
