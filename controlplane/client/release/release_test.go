package release_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/controlplane/client/release"
	"github.com/tenderfleet/tender/controlplane/client/release/releasetest"
)

func TestReadsItsOwnPackages(t *testing.T) {
	for version, agent := range map[string]string{
		"0.2.0-1":                 "v0.2.0",
		"0.1.0~20261126.gabc-1":   "v0.1.0~20261126.gabc",
		"1:0.2.0+5.gabc1234-1":    "v0.2.0+5.gabc1234",
		"0.3.0":                   "v0.3.0",
		"0.3.0-rc1-1~bpo12+1":     "v0.3.0-rc1",
		"0.1.0~20261126.gabc-0.1": "v0.1.0~20261126.gabc",
	} {
		about, err := release.Read(bytes.NewReader(releasetest.Package(t, version, "arm64", 1, 2, 3)))
		if want := (release.About{Version: version, Arch: "arm64", Agent: agent}); err != nil || about != want {
			t.Errorf("%s: %+v, %v, want %+v", version, about, err, want)
		}
	}
}

func gz(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRefusesOtherFiles(t *testing.T) {
	control := func(text string) []byte { return releasetest.Tar(t, "control", text) }
	const good = "Package: tender-agent\nVersion: 1-1\nArchitecture: amd64\n"
	whole := releasetest.Package(t, "1-1", "amd64")
	large := releasetest.XZ(t, control(good))
	large[16] = 40 // 4 GiB of dictionary
	for name, tt := range map[string]struct {
		file []byte
		want string
	}{
		"a plain control archive":    {releasetest.Archive("control.tar", control(good), nil), ""},
		"one of gzip":                {releasetest.Archive("control.tar.gz/", gz(t, control(good)), nil), ""},
		"nothing":                    {nil, "no Debian package"},
		"a script":                   {[]byte("#!/bin/sh\n"), "no Debian package"},
		"half of it":                 {whole[:len(whole)/2], "broken off"},
		"one of zstd":                {releasetest.Archive("control.tar.zst", nil, nil), "-Zxz"},
		"another archive":            {releasetest.Archive("data.tar", nil, nil), "not a control archive"},
		"too much memory":            {releasetest.Archive("control.tar.xz", large, nil), "too much memory"},
		"a large control archive":    {releasetest.Archive("control.tar", make([]byte, 1<<20+1), nil), "the limit is"},
		"a large control file":       {releasetest.Archive("control.tar.xz", releasetest.XZ(t, control(strings.Repeat("x", 100<<10))), nil), "control file has"},
		"no control file":            {releasetest.Archive("control.tar", releasetest.Tar(t, "md5sums", good), nil), "no control file"},
		"damaged xz":                 {releasetest.Archive("control.tar.xz", []byte("\xfd7zXZ\x00rubbish"), nil), "not a package"},
		"another package":            {releasetest.Archive("control.tar", control(strings.Replace(good, "tender-agent", "nginx", 1)), nil), `a package of "nginx"`},
		"for all architectures":      {releasetest.Archive("control.tar", control(strings.Replace(good, "amd64", "all", 1)), nil), "architecture"},
		"a version of other letters": {releasetest.Archive("control.tar", control(strings.Replace(good, "1-1", "1 \x1b[2J", 1)), nil), "version"},
		"no version":                 {releasetest.Archive("control.tar", control(strings.Replace(good, "1-1", "-1", 1)), nil), "version"},
	} {
		_, err := release.Read(bytes.NewReader(tt.file))
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, release.ErrPackage) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestSignatures(t *testing.T) {
	alice, bob := releasetest.NewSigner(t), releasetest.NewSigner(t)
	keys := []release.Key{}
	for _, s := range []*releasetest.Signer{alice} {
		k, err := release.ParseKey(s.Public)
		if err != nil || k.ID != s.ID || !strings.Contains(k.Comment, "minisign public key") {
			t.Fatalf("%+v, %v", k, err)
		}
		keys = append(keys, k)
	}
	file := releasetest.Package(t, "1-1", "amd64")
	got, err := release.Check(bytes.NewReader(file), alice.Sign(file), keys)
	if err != nil || got.Key != alice.ID || got.Size != int64(len(file)) || len(got.SHA256) != 64 {
		t.Errorf("%+v, %v", got, err)
	}
	for name, tt := range map[string]struct{ signature, want string }{
		"no signature":         {"", "not one of minisign"},
		"another file's":       {alice.Sign([]byte("else")), "has signed something else"},
		"another key's":        {bob.Sign(file), "no release key of this fleet"},
		"of the legacy form":   {strings.Replace(alice.Sign(file), "\nRU", "\nRW", 1), "legacy"}, // "ED" and "Ed"
		"with another comment": {strings.Replace(alice.Sign(file), "timestamp", "TIMESTAMP", 1), "has signed something else"},
	} {
		_, err := release.Check(bytes.NewReader(file), tt.signature, keys)
		if !errors.Is(err, release.ErrSignature) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	for _, bad := range []string{"", "x", "untrusted comment: x", "untrusted comment: x\nRWQ=", alice.Public + alice.Public, alice.Sign(file)} {
		if _, err := release.ParseKey(bad); !errors.Is(err, release.ErrKey) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	tb := f
	f.Add(releasetest.Package(tb, "0.2.0-1", "amd64"))
	f.Add(releasetest.Archive("control.tar", releasetest.Tar(tb, "control", "Package: tender-agent\n"), nil))
	f.Add(releasetest.Archive("control.tar.gz", []byte{0x1f, 0x8b}, nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		about, err := release.Read(bytes.NewReader(in))
		if err == nil && (about.Version == "" || about.Arch == "" || len(about.Agent) < 2) {
			t.Errorf("%+v", about)
		}
	})
}

func FuzzKeysAndSignatures(f *testing.F) {
	alice := releasetest.NewSigner(f)
	f.Add(alice.Public, alice.Sign([]byte("file")))
	f.Add("RWQ=", "untrusted comment: x\nRU\ntrusted comment: y\nz")
	f.Fuzz(func(t *testing.T, public, signature string) {
		k, err := release.ParseKey(public)
		if err != nil {
			return
		}
		if again, err := release.ParseKey(k.Text); err != nil || again.ID != k.ID || again.Text != k.Text {
			t.Errorf("%+v is read as %+v, %v", k, again, err)
		}
		if _, err := release.Check(strings.NewReader("another file"), signature, []release.Key{k}); err == nil {
			t.Errorf("a signature of anything: %q by %q", signature, public)
		}
	})
}

// What minisign 0.11 of Debian 12 has made: a key, and its signatures of the
// file "package\n", by default and with -l.
const (
	debianPublic = `untrusted comment: minisign public key 98B3DD36D21911D2
RWTSERnSNt2zmEKXbloFbdgIB98Z7C7NPfPLW3BcK8wSf9MQgHN61IgU
`
	debianSignature = `untrusted comment: signature from minisign secret key
RUTSERnSNt2zmL/Uerad5fHcj7FMrzr3I6vn9M6DHfdY6rivlqJtH5ZQP9L7OoeVQCvhid8NuQOhYxnNBNQarKkOYPssssKm2wk=
trusted comment: timestamp:1795672597	file:f	hashed
nWkN4ZbLPtjA7JduQpWc6crkGYu8ftGCUhHqUegRWuBwSIxutAXSGoRfAaobyAVODj4iRgmUEqmHTrdJ9a2vDw==
`
	debianLegacy = `untrusted comment: signature from minisign secret key
RWTSERnSNt2zmJEbyVvcNmYj3pFSpySxPqxp9UBCrwqDYMTghnZYWx1IXz74YGMCj1Vmbygo7AWiqergza5SA9LfK5RXBb5zhwI=
trusted comment: timestamp:1795672597	file:f
UCspUNXgviK79rFmFgmj32Am0/SgLeJdhlgs6e6yKg+l8Etvb34vCWJGjsvu2zOtBoNA0qxfS8QUtl/24STbDQ==
`
)

func TestReadsWhatMinisignWrites(t *testing.T) {
	key, err := release.ParseKey(debianPublic)
	if err != nil || key.ID != "98B3DD36D21911D2" || key.Comment != "minisign public key 98B3DD36D21911D2" {
		t.Fatalf("%+v, %v", key, err)
	}
	keys := []release.Key{key}
	if got, err := release.Check(strings.NewReader("package\n"), debianSignature, keys); err != nil || got.Size != 8 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := release.Check(strings.NewReader("package"), debianSignature, keys); !errors.Is(err, release.ErrSignature) {
		t.Errorf("of another file: %v", err)
	}
	if _, err := release.Check(strings.NewReader("package\n"), debianLegacy, keys); err == nil || !strings.Contains(err.Error(), "without -l") {
		t.Errorf("of the legacy form: %v", err)
	}
}
