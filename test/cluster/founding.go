package cluster

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/tenderfleet/tender/controlplane"
	"github.com/tenderfleet/tender/pki/authority"
)

// founded are data directories of first replicas, by address, as Init made them.
// All bubbles begin at the same time, so fleets there can begin as the same one:
// to seal a root key and to open it is dear on purpose, and under the race
// detector it was most of what a short scenario did.
var founded struct {
	sync.Mutex
	files map[string]map[string][]byte
}

// found makes the first replica's data directory.
func (f *Fleet) found(r *Replica) {
	f.tb.Helper()
	o := controlplane.InitOptions{DataDir: r.dir, ID: r.ID, Addr: r.Addr, TrustDomain: TrustDomain}
	if f.net == nil {
		_, err := controlplane.Init(f.tb.Context(), o)
		f.fatal(err)
		return
	}
	founded.Lock()
	defer founded.Unlock()
	files := founded.files[r.Addr]
	if files == nil {
		o.DataDir = f.tb.TempDir()
		_, err := controlplane.Init(f.tb.Context(), o)
		f.fatal(err)
		f.unstretch(filepath.Join(o.DataDir, "root"))
		files = map[string][]byte{}
		f.fatal(filepath.WalkDir(o.DataDir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			name, err := filepath.Rel(o.DataDir, path)
			if err != nil {
				return err
			}
			files[name], err = os.ReadFile(path)
			return err
		}))
		if founded.files == nil {
			founded.files = map[string]map[string][]byte{}
		}
		founded.files[r.Addr] = files
	}
	for name, data := range files {
		path := filepath.Join(r.dir, name)
		f.fatal(os.MkdirAll(filepath.Dir(path), 0o700))
		f.fatal(os.WriteFile(path, data, 0o600))
	}
}

// unstretch seals the root key in a directory anew, with the same passphrase and
// next to none of the work that makes guessing that dear.
func (f *Fleet) unstretch(root string) {
	f.tb.Helper()
	file := filepath.Join(root, "root.key")
	sealed, err := os.ReadFile(file)
	f.fatal(err)
	passphrase, err := os.ReadFile(filepath.Join(root, "passphrase"))
	f.fatal(err)
	key, err := authority.OpenKey(sealed, passphrase)
	f.fatal(err)
	data, err := sealCheaply(key, passphrase)
	f.fatal(err)
	f.fatal(os.WriteFile(file, data, 0o600))
}

// sealCheaply is authority.SealKey with one round of PBKDF2 (RFC 8018, A.4).
func sealCheaply(key crypto.Signer, passphrase []byte) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	_, _ = rand.Read(salt) // never fails
	_, _ = rand.Read(iv)
	const rounds = 1
	secret, err := pbkdf2.Key(sha256.New, string(passphrase), salt, rounds, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	plain = append(plain, bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(plain, plain)

	// Structures of RFC 8018, appendix A, from the inside out.
	raw := func(v any) (out asn1.RawValue) {
		if err == nil {
			out.FullBytes, err = asn1.Marshal(v)
		}
		return out
	}
	alg := func(params asn1.RawValue, id ...int) asn1.RawValue {
		return raw(pkix.AlgorithmIdentifier{Algorithm: id, Parameters: params})
	}
	hash := alg(asn1.NullRawValue, 1, 2, 840, 113549, 2, 9)
	stretch := alg(raw(struct {
		Salt   []byte
		Rounds int
		Hash   asn1.RawValue
	}{salt, rounds, hash}), 1, 2, 840, 113549, 1, 5, 12)
	encrypt := alg(raw(iv), 2, 16, 840, 1, 101, 3, 4, 1, 42)
	scheme := alg(raw(struct{ Stretch, Encrypt asn1.RawValue }{stretch, encrypt}), 1, 2, 840, 113549, 1, 5, 13)
	sealed := raw(struct {
		Scheme asn1.RawValue
		Key    []byte
	}{scheme, plain})
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: sealed.FullBytes}), err
}
