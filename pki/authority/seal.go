package authority

import (
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"

	"go.step.sm/crypto/pemutil"
)

// minPassphrase is short enough not to annoy and long enough that the key
// derivation has something to slow down.
const minPassphrase = 8

// ErrPassphrase marks a passphrase that is too short or does not open a key.
var ErrPassphrase = errors.New("wrong passphrase")

const blockSealed = "ENCRYPTED PRIVATE KEY"

// SealKey returns key as encrypted PKCS#8 PEM, which openssl pkey reads too.
// It takes about a quarter of a second, on purpose.
func SealKey(key crypto.Signer, passphrase []byte) ([]byte, error) {
	if len(passphrase) < minPassphrase {
		return nil, fmt.Errorf("seal key: %w: use at least %d characters", ErrPassphrase, minPassphrase)
	}
	block, err := pemutil.Serialize(key, pemutil.WithPKCS8(true), pemutil.WithPassword(passphrase))
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	if block.Type != blockSealed {
		return nil, fmt.Errorf("seal key: got a %s", block.Type)
	}
	return pem.EncodeToMemory(block), nil
}

// OpenKey is the inverse of SealKey. It reads sealed keys only.
func OpenKey(data, passphrase []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != blockSealed {
		return nil, errors.New("open key: not an encrypted private key in PEM form")
	}
	if len(passphrase) < minPassphrase {
		return nil, fmt.Errorf("open key: %w: it has at least %d characters", ErrPassphrase, minPassphrase)
	}
	parsed, err := pemutil.ParseKey(pem.EncodeToMemory(block), pemutil.WithPassword(passphrase))
	if err != nil {
		return nil, fmt.Errorf("open key: %w: %w", ErrPassphrase, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("open key: a %T cannot sign", parsed)
	}
	return key, nil
}
