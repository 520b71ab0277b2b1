// Package releasetest makes signed packages of tender-agent for tests. They are
// too small to be installed.
package releasetest

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"testing"

	"aead.dev/minisign"
	"github.com/ulikunitz/xz"
)

// Signer is a release key.
type Signer struct {
	Public  string // as its file has it
	ID      string
	private minisign.PrivateKey
}

// NewSigner makes a key.
func NewSigner(tb testing.TB) *Signer {
	tb.Helper()
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	text, err := public.MarshalText()
	if err != nil {
		tb.Fatal(err)
	}
	return &Signer{Public: string(text) + "\n", ID: fmt.Sprintf("%016X", public.ID()), private: private}
}

// Sign makes the signature of a file.
func (s *Signer) Sign(file []byte) string {
	r := minisign.NewReader(bytes.NewReader(file))
	_, _ = io.Copy(io.Discard, r) // neither end can fail
	return string(r.Sign(s.private))
}

// Package makes a package; version is Debian's. Filler makes it larger.
func Package(tb testing.TB, version, arch string, filler ...byte) []byte {
	tb.Helper()
	control := fmt.Sprintf("Package: tender-agent\nVersion: %s\nArchitecture: %s\nDescription: an agent\n of a fleet: small\n", version, arch)
	return Archive("control.tar.xz", XZ(tb, Tar(tb, "./control", control)), filler)
}

// Archive is a package of these parts.
func Archive(name string, control, data []byte) []byte {
	out := []byte("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {name, control}, {"data.tar.xz", data}} {
		out = fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		out = append(out, m.data...)
		if len(m.data)%2 == 1 {
			out = append(out, '\n')
		}
	}
	return out
}

// Tar is an archive of one file.
func Tar(tb testing.TB, name, content string) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	check(tb, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}))
	_, err := io.WriteString(w, content)
	check(tb, err)
	check(tb, w.Close())
	return b.Bytes()
}

// XZ compresses.
func XZ(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	check(tb, err)
	_, err = w.Write(data)
	check(tb, err)
	check(tb, w.Close())
	return b.Bytes()
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
