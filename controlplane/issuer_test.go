package controlplane

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
)

// An issuer comes back from disk as it was, and so does one that the first
// version wrote.
func TestIssuerOnDisk(t *testing.T) {
	const domain = "fleet.example"
	d := layout(t.TempDir())
	ca, old := pkitest.New(t, domain), pkitest.New(t, domain)
	key, err := pki.EncodeKey(ca.IssuingKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{d.interKey(): key, d.interCert(): pemCert(ca.Intermediate)} {
		if err := writeFile(path, data); err != nil {
			t.Fatal(err)
		}
	}
	first, err := d.loadIssuer()
	if err != nil || first.round != 0 || first.cross != nil || !first.inter.Equal(ca.Intermediate) {
		t.Fatalf("of the first version: %+v, %v", first, err)
	}
	next := &issuer{key: first.key, inter: ca.Intermediate, cross: old.Intermediate, round: 7}
	if err := d.saveIssuer(next); err != nil {
		t.Fatal(err)
	}
	got, err := d.loadIssuer()
	if err != nil || got.round != 7 || got.cross == nil || !got.cross.Equal(old.Intermediate) || !got.inter.Equal(ca.Intermediate) {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := got.open(domain, ca.Root, 0); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(d.interKey()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key of the first version is still there: %v", err)
	}
}

// A rotation's root is made once, however often it is asked for, sealed beside
// the first one; a crash before its certificate leaves no half of it in use.
func TestRootOfARotation(t *testing.T) {
	const domain = "fleet.example"
	d := layout(t.TempDir())
	ca := pkitest.New(t, domain)
	if _, err := d.openRoot(ca.Root); !errors.Is(err, errNoRootKey) {
		t.Errorf("without any: %v", err)
	}
	if err := d.sealRoot(d.rootKey(), d.passphrase(), ca.RootKey); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(d.path("root", "root-1.key"), []byte("half")); err != nil {
		t.Fatal(err)
	}
	one, err := d.makeRoot(domain, 1)
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.makeRoot(domain, 1)
	if err != nil || !bytes.Equal(one.Raw, again.Raw) {
		t.Errorf("made twice: %v", err)
	}
	if !one.NotAfter.After(time.Now().Add(9 * 365 * 24 * time.Hour)) {
		t.Errorf("it ends %v", one.NotAfter)
	}
	for name, root := range map[string]*x509.Certificate{"the first": ca.Root, "the new one": one} {
		key, err := d.openRoot(root)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if data, err := os.ReadFile(d.path("root", "root-1.key")); err != nil || bytes.Contains(data, []byte("BEGIN PRIVATE KEY")) || key == nil {
			t.Errorf("%s: not sealed", name)
		}
	}
}
