package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
)

func TestTheSameOptionsGiveTheSameArchive(t *testing.T) {
	o := Options{Name: "example.org/x:1", Arch: "arm64", Env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, Files: map[string]File{"/opt/a/b.txt": {Data: []byte("hi")}}}
	first, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Fatal("two builds of the same options differ")
	}

	members := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(first)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if members[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
	var index struct {
		Manifests []struct {
			Digest      string
			Platform    struct{ Architecture string }
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(members["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	m := index.Manifests[0]
	if m.Platform.Architecture != "arm64" || m.Annotations["io.containerd.image.name"] != "example.org/x:1" {
		t.Errorf("index.json: %s", members["index.json"])
	}
	for name, data := range members {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && digest(data) != sum {
			t.Errorf("%s has digest %s", name, digest(data))
		}
	}
}

func TestWithoutBusyboxTheErrorSaysWhatToInstall(t *testing.T) {
	_, err := Build(Options{Busybox: "/nonexistent/busybox"})
	if err == nil || !strings.Contains(err.Error(), "busybox-static") {
		t.Fatalf("error %v does not name the package", err)
	}
}
