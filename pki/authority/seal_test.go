package authority

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
)

func TestSealKey(t *testing.T) {
	key := pkitest.Key(t)
	pass := []byte("correct horse battery")
	sealed, err := SealKey(key, pass)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(sealed, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")) {
		t.Errorf("got %s", sealed)
	}
	got, err := OpenKey(sealed, pass)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Public(), key.Public()) {
		t.Error("another key came out")
	}
	for _, wrong := range []string{"correct horse batterx", "", "short"} {
		if _, err := OpenKey(sealed, []byte(wrong)); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if _, err := SealKey(key, []byte("short")); !errors.Is(err, ErrPassphrase) {
		t.Errorf("short passphrase: %v", err)
	}
	plain, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, plain, []byte("junk")} {
		if _, err := OpenKey(bad, pass); err == nil {
			t.Error("opened what was not sealed")
		}
	}
}
