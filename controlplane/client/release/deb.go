package release

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/ulikunitz/xz"
)

// Bounds of what is read of a package; that of tender-agent has a control
// archive of 3 kB, and xz writes it with a dictionary of 8 MiB.
const (
	maxControlTar = 1 << 20
	maxControl    = 64 << 10
	maxUnpacked   = 8 << 20
	maxDictionary = 64 << 20
)

// About is what a package says of itself.
type About struct {
	Version string // Debian's: "0.2.0-1"
	Arch    string // "amd64"
	// Agent is the version as the agent in it tells it: "v0.2.0".
	Agent string
}

// Read reads the control fields of a package of tender-agent.
func Read(file io.Reader) (About, error) {
	control, err := readControl(file)
	if err != nil {
		return About{}, fmt.Errorf("%w: %w", ErrPackage, err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(control)) {
		if name, value, ok := strings.Cut(line, ":"); ok && !strings.ContainsAny(name, " \t") {
			fields[strings.ToLower(name)] = strings.TrimSpace(value)
		}
	}
	a := About{Version: fields["version"], Arch: fields["architecture"]}
	switch {
	case fields["package"] != "tender-agent":
		return a, fmt.Errorf("%w: it is a package of %.60q", ErrPackage, fields["package"])
	case !word(a.Arch, 32) || a.Arch == "all":
		return a, fmt.Errorf("%w: its architecture is %.60q", ErrPackage, a.Arch)
	case !word(a.Version, 64):
		return a, fmt.Errorf("%w: its version is %.60q", ErrPackage, a.Version)
	}
	// [epoch:]upstream[-revision], deb-version(7); packaging/deb stamps the
	// programs with "v" and the middle.
	upstream := a.Version
	if _, rest, ok := strings.Cut(upstream, ":"); ok {
		upstream = rest
	}
	if i := strings.LastIndexByte(upstream, '-'); i >= 0 {
		upstream = upstream[:i]
	}
	if upstream == "" {
		return a, fmt.Errorf("%w: its version is %.60q", ErrPackage, a.Version)
	}
	a.Agent = "v" + upstream
	return a, nil
}

// word reports whether s has 1 to limit of the characters of versions.
func word(s string, limit int) bool {
	return s != "" && len(s) <= limit && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+~:-") == ""
}

// readControl returns the control file: the archive's second member, a tar,
// has it.
func readControl(file io.Reader) ([]byte, error) {
	r := bufio.NewReader(file)
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, errors.New("it is no Debian package")
	}
	name, data, err := member(r, 16)
	if err != nil || name != "debian-binary" || !strings.HasPrefix(string(data), "2.") {
		return nil, errors.New("it is no Debian package of format 2")
	}
	name, data, err = member(r, maxControlTar)
	if err != nil {
		return nil, err
	}
	unpacked, err := unpack(name, data)
	if err != nil {
		return nil, err
	}
	return controlIn(tar.NewReader(io.LimitReader(unpacked, maxUnpacked)))
}

// member reads the next member of an ar archive, ar(5).
func member(r io.Reader, limit int64) (name string, data []byte, err error) {
	var head [60]byte
	if _, err := io.ReadFull(r, head[:]); err != nil || string(head[58:]) != "`\n" {
		return "", nil, errors.New("it is broken off, or its archive is damaged")
	}
	size, err := strconv.ParseInt(strings.TrimRight(string(head[48:58]), " "), 10, 64)
	if err != nil || size < 0 || size > limit {
		return "", nil, fmt.Errorf("a part of it has %.10q bytes, the limit is %d", head[48:58], limit)
	}
	data = make([]byte, size+size%2) // padded to an even length
	if _, err := io.ReadFull(r, data); err != nil {
		return "", nil, errors.New("it is broken off")
	}
	return strings.TrimRight(strings.TrimSpace(string(head[:16])), "/"), data[:size], nil
}

func unpack(name string, data []byte) (io.Reader, error) {
	switch name {
	case "control.tar":
		return bytes.NewReader(data), nil
	case "control.tar.gz":
		return gzip.NewReader(bytes.NewReader(data))
	case "control.tar.xz":
		if n := dictionary(data); n > maxDictionary {
			return nil, errors.New("its control archive needs too much memory to unpack")
		}
		return xz.ReaderConfig{DictCap: 1 << 20, SingleStream: true}.NewReader(bytes.NewReader(data))
	case "control.tar.zst":
		return nil, errors.New("its control archive is compressed with zstd; build it with xz, as tender's own packages are: dpkg-deb -Zxz")
	}
	return nil, fmt.Errorf("its second part is %.20q, not a control archive", name)
}

// dictionary is how many bytes the first block of an xz file wants for its
// dictionary (xz file format 1.2.1, sections 3.1 and 5.3.1), 0 where that cannot
// be read: the library says then what is wrong.
func dictionary(data []byte) int64 {
	const header = 12 // of the stream; then the block's size and flags
	if len(data) < header+2 {
		return 0
	}
	flags, rest := data[header+1], data[header+2:]
	for _, there := range []bool{flags&0x40 != 0, flags&0x80 != 0} {
		for there && len(rest) > 0 { // a number of seven bits a byte
			there = rest[0]&0x80 != 0
			rest = rest[1:]
		}
	}
	if len(rest) < 3 || rest[0] != 0x21 || rest[1] != 1 || rest[2] > 40 {
		return 0
	}
	bits := int64(rest[2])
	return (2 | bits&1) << (bits/2 + 11)
}

func controlIn(t *tar.Reader) ([]byte, error) {
	for {
		h, err := t.Next()
		if err != nil {
			return nil, errors.New("its control archive is damaged, or has no control file")
		}
		if strings.TrimPrefix(h.Name, "./") != "control" || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxControl {
			return nil, fmt.Errorf("its control file has %d bytes", h.Size)
		}
		data, err := io.ReadAll(io.LimitReader(t, maxControl))
		if err != nil {
			return nil, errors.New("its control archive is damaged")
		}
		return data, nil
	}
}
