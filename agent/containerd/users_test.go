package containerd

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestUsersOfAnImage(t *testing.T) {
	const passwd = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/false\nbroken\n"
	const group = "root:x:0:\nweb:x:34:\nvideo:x:44:web,other\nplugdev:x:46:other\nwheel:x:10:root\nall:x:50:other,web\n"
	for name, want := range map[string]string{
		"web":         "33:34 [34 44 50]",
		"33":          "33:34 [34 44 50]",
		"web:video":   "33:44 [44]",
		"33:plugdev":  "33:46 [46]",
		"root:wheel":  "0:10 [10]",
		"4000":        "4000:0 [0]",
		"nobody":      "/etc/passwd there has no such name",
		"web:nogroup": `/etc/group there has no group "nogroup"`,
		"-1":          "/etc/passwd there has no such name",
	} {
		u, err := resolve(name, passwd, group)
		got := fmt.Sprintf("%d:%d %v", u.UID, u.GID, u.AdditionalGids)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"": "0:0 [0]", "0": "0:0 [0]", "root": "0:0 [0]", "7:8": "7:8 [8]", "7": "", "web": "", "7:web": "", "-1:0": "",
	} {
		u, ok := numbers(name)
		got := fmt.Sprintf("%d:%d %v", u.UID, u.GID, u.AdditionalGids)
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%q needs nothing of the image: %q, want %q", name, got, want)
		}
	}
}

// entry is a file of a layer; a text of "-> x" makes it a link, "= x" a hard one.
type entry struct{ name, text string }

type blobs map[digest.Digest][]byte

func (b blobs) ReaderAt(_ context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	return &blob{bytes.NewReader(b[d.Digest])}, nil
}

type blob struct{ *bytes.Reader }

func (b *blob) Close() error { return nil }

func (b blobs) layer(t *testing.T, entries []entry) ocispec.Descriptor {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(e.text))}
		if to, ok := strings.CutPrefix(e.text, "-> "); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, to, 0
		} else if to, ok := strings.CutPrefix(e.text, "= "); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, to, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := tw.Write([]byte(e.text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(buf.Bytes())
	b[d] = buf.Bytes()
	return ocispec.Descriptor{Digest: d, Size: int64(buf.Len())}
}

// Layers are read as containerd stacks them, without mounting any.
func TestFilesOfLayers(t *testing.T) {
	const none = "none"
	for name, c := range map[string]struct {
		layers [][]entry
		want   string
	}{
		"in the lowest":         {[][]entry{{{passwdFile, "low"}}, {{"bin/sh", "x"}}}, "low"},
		"the upper one wins":    {[][]entry{{{passwdFile, "low"}}, {{"./" + passwdFile, "high"}}}, "high"},
		"deleted":               {[][]entry{{{passwdFile, "low"}}, {{"etc/.wh.passwd", ""}}}, none},
		"directory deleted":     {[][]entry{{{passwdFile, "low"}}, {{".wh.etc", ""}}}, none},
		"directory replaced":    {[][]entry{{{passwdFile, "low"}}, {{"etc/.wh..wh..opq", ""}}}, none},
		"replaced with it":      {[][]entry{{{passwdFile, "low"}}, {{"etc/.wh..wh..opq", ""}, {passwdFile, "high"}}}, "high"},
		"link":                  {[][]entry{{{"nix/store/p", "nix"}}, {{passwdFile, "-> /nix/store/p"}}}, "nix"},
		"relative link":         {[][]entry{{{"etc/p", "near"}, {passwdFile, "-> p"}}}, "near"},
		"hard link":             {[][]entry{{{"usr/p", "hard"}, {passwdFile, "= usr/p"}}}, "hard"},
		"link out of the image": {[][]entry{{{passwdFile, "-> ../../../../etc/shadow"}}}, none},
		"not in it":             {[][]entry{{{"bin/sh", "x"}}}, none},
		"link in a circle":      {[][]entry{{{passwdFile, "-> group"}, {groupFile, "-> passwd"}}}, "too many symbolic links"},
	} {
		store := blobs{}
		var layers []ocispec.Descriptor
		for _, entries := range c.layers {
			layers = append(layers, store.layer(t, entries))
		}
		found, err := layerFiles(t.Context(), store, layers, passwdFile)
		got := none
		if data, ok := found[passwdFile]; ok {
			got = string(data)
		}
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
