// Package image makes container images for tests, without a registry, a
// builder or a container: one layer around Debian's static busybox, as an OCI
// archive that containerd imports.
//
//	archive, err := image.Build(image.Options{Name: "example.org/tests/busybox:1"})
//	refs, err := executor.Import(ctx, bytes.NewReader(archive))
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
)

// DefaultName is the reference of an image whose Options name none.
const DefaultName = "example.org/tests/busybox:1"

// DefaultBusybox is where Debian's package busybox-static puts it.
const DefaultBusybox = "/bin/busybox"

// File is one more file of an image.
type File struct {
	Mode int64 // 0 means 0644
	Data []byte
}

// Options say what an image is made of. The zero value is an image for this
// machine that runs a shell as root.
type Options struct {
	// Name is the full reference that the archive is imported under.
	Name string
	// Arch is the architecture the image says it is for; its busybox stays
	// this machine's.
	Arch string
	// Env is added to PATH=/bin.
	Env        []string
	Cmd        []string // default: /bin/sh
	Entrypoint []string
	User       string
	WorkDir    string
	// Files are added to the layer, by absolute path.
	Files map[string]File
	// Busybox is the path of a statically linked busybox.
	Busybox string
}

// Build returns the archive as bytes.
func Build(o Options) ([]byte, error) {
	var b bytes.Buffer
	if err := Write(&b, o); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Write writes the OCI archive to w. The same options give the same bytes.
func Write(w io.Writer, o Options) error {
	o = o.withDefaults()
	layer, err := o.layer()
	if err != nil {
		return fmt.Errorf("build image %s: %w", o.Name, err)
	}
	type object = map[string]any
	platform := object{"os": "linux", "architecture": o.Arch}
	blobs := map[string][]byte{}
	add := func(mediaType string, data []byte) object {
		sum := digest(data)
		blobs[sum] = data
		return object{"mediaType": mediaType, "digest": "sha256:" + sum, "size": len(data)}
	}
	layerDesc := add("application/vnd.oci.image.layer.v1.tar", layer)
	config := add("application/vnd.oci.image.config.v1+json", mustJSON(object{
		"architecture": o.Arch, "os": "linux",
		"config": object{
			"Env": append([]string{"PATH=/bin"}, o.Env...), "Cmd": o.Cmd, "Entrypoint": o.Entrypoint,
			"User": o.User, "WorkingDir": o.WorkDir,
		},
		"rootfs": object{"type": "layers", "diff_ids": []any{layerDesc["digest"]}},
	}))
	manifest := add("application/vnd.oci.image.manifest.v1+json", mustJSON(object{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config, "layers": []any{layerDesc},
	}))
	manifest["platform"] = platform
	// containerd stores an imported image under the first annotation only.
	manifest["annotations"] = object{
		"io.containerd.image.name": o.Name, "org.opencontainers.image.ref.name": "latest",
	}
	index := mustJSON(object{"schemaVersion": 2, "manifests": []any{manifest}})

	tw := tar.NewWriter(w)
	writeFile(tw, "oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	writeFile(tw, "index.json", 0o644, index)
	for _, sum := range sorted(blobs) {
		writeFile(tw, "blobs/sha256/"+sum, 0o644, blobs[sum])
	}
	return tw.Close() // reports the first error of the writes before it
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	if o.Cmd == nil && o.Entrypoint == nil {
		o.Cmd = []string{"/bin/sh"}
	}
	if o.Busybox == "" {
		o.Busybox = DefaultBusybox
	}
	return o
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
	group  = "root:x:0:\nuser:x:1000:\nvideo:x:44:user\n"
)

// layer is the uncompressed layer, so that its digest is its diff id too.
func (o Options) layer() ([]byte, error) {
	busybox, err := os.ReadFile(o.Busybox)
	if err != nil {
		return nil, fmt.Errorf("%w (install the Debian package busybox-static: make deps)", err)
	}
	applets, err := exec.Command(o.Busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of %s: %w", o.Busybox, err)
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	dirs := []string{"bin", "dev", "etc", "home", "home/user", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/lib/x86_64-linux-gnu"}
	for name := range o.Files {
		for dir := path.Dir(strings.Trim(name, "/")); dir != "."; dir = path.Dir(dir) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		_ = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode})
	}
	writeFile(tw, "bin/busybox", 0o755, busybox)
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			_ = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777})
		}
	}
	writeFile(tw, "etc/passwd", 0o644, []byte(passwd))
	writeFile(tw, "etc/group", 0o644, []byte(group))
	for _, name := range sorted(o.Files) {
		f := o.Files[name]
		if f.Mode == 0 {
			f.Mode = 0o644
		}
		writeFile(tw, strings.Trim(name, "/"), f.Mode, f.Data)
	}
	err = tw.Close()
	return b.Bytes(), err
}

// writeFile leaves errors to tw.Close, which repeats the first one.
func writeFile(tw *tar.Writer, name string, mode int64, data []byte) {
	_ = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))})
	_, _ = tw.Write(data)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only maps, strings and numbers made here
	}
	return b
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
