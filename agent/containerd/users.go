package containerd

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// The files of an image that know its users. Mounting the image to read them
// would take root, so they are read from its layers.
const (
	passwdFile = "etc/passwd"
	groupFile  = "etc/group"
	// maxAccounts bounds each of them, in bytes.
	maxAccounts = 1 << 20
	// maxLinks bounds the symbolic links that lead to one.
	maxLinks = 4
)

// maxUsers bounds what is remembered of one image.
const maxUsers = 64

// user finds the numbers of a user, given as "uid", "uid:gid" or names of the
// image; empty is the image's own, and root if it has none. As in Docker, a
// user with its group named is in no other group. Root and a pair of numbers
// need nothing of the image: to root, groups make no difference.
func (x *Executor) user(ctx context.Context, img *image, name string) (specs.User, error) {
	if name == "" {
		name = img.config.User
	}
	if u, ok := numbers(name); ok {
		return u, nil
	}
	img.mu.Lock()
	defer img.mu.Unlock()
	if u, ok := img.users[name]; ok {
		return u, nil
	}
	if img.accounts == nil {
		files, err := layerFiles(ctx, x.client.ContentStore(), img.layers, passwdFile, groupFile)
		if err != nil {
			return specs.User{}, fmt.Errorf("read the image's users: %w", err)
		}
		img.accounts = files
	}
	u, err := resolve(name, string(img.accounts[passwdFile]), string(img.accounts[groupFile]))
	if err != nil {
		return specs.User{}, invalid("user %q is not in the image: %w", name, err)
	}
	if len(img.users) >= maxUsers {
		clear(img.users)
	}
	img.users[name] = u
	return u, nil
}

// numbers answers what can be answered without the image.
func numbers(name string) (specs.User, bool) {
	user, group, both := strings.Cut(name, ":")
	if !both {
		return specs.User{AdditionalGids: []uint32{0}}, user == "" || user == "0" || user == "root"
	}
	uid, err := strconv.ParseUint(user, 10, 32)
	gid, err2 := strconv.ParseUint(group, 10, 32)
	return specs.User{UID: uint32(uid), GID: uint32(gid), AdditionalGids: []uint32{uint32(gid)}}, err == nil && err2 == nil
}

// resolve looks a user up in the two files, passwd(5) and group(5). A number
// need not be in them.
func resolve(name, passwd, group string) (specs.User, error) {
	user, wanted, both := strings.Cut(name, ":")
	var u specs.User
	uid, err := strconv.ParseUint(user, 10, 32)
	isNumber := err == nil
	known := ""
	for f := range fields(passwd, 4) {
		if f[0] == user || isNumber && f[2] == strconv.FormatUint(uid, 10) {
			id, err := strconv.ParseUint(f[2], 10, 32)
			gid, err2 := strconv.ParseUint(f[3], 10, 32)
			if err = errors.Join(err, err2); err != nil {
				return u, fmt.Errorf("its /etc/passwd: %w", err)
			}
			known, u.UID, u.GID = f[0], uint32(id), uint32(gid)
			break
		}
	}
	switch {
	case known == "" && !isNumber:
		return u, errors.New("/etc/passwd there has no such name")
	case known == "":
		u.UID = uint32(uid)
	}
	if both {
		if u.GID, err = groupID(wanted, group); err != nil {
			return u, err
		}
		u.AdditionalGids = []uint32{u.GID}
		return u, nil
	}
	u.AdditionalGids = []uint32{u.GID}
	for f := range fields(group, 4) {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && known != "" && slices.Contains(strings.Split(f[3], ","), known) && !slices.Contains(u.AdditionalGids, uint32(gid)) {
			u.AdditionalGids = append(u.AdditionalGids, uint32(gid))
		}
	}
	return u, nil
}

func groupID(wanted, group string) (uint32, error) {
	if gid, err := strconv.ParseUint(wanted, 10, 32); err == nil {
		return uint32(gid), nil
	}
	for f := range fields(group, 3) {
		if f[0] == wanted {
			gid, err := strconv.ParseUint(f[2], 10, 32)
			return uint32(gid), err
		}
	}
	return 0, fmt.Errorf("/etc/group there has no group %q", wanted)
}

// fields yields the lines that have at least n fields.
func fields(text string, n int) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(text) {
			if f := strings.Split(strings.TrimSpace(line), ":"); len(f) >= n && !yield(f) {
				return
			}
		}
	}
}

// layerFiles reads files of an image, given without the first slash, from its
// layers, the uppermost first and no further than needed. A file that is not in
// the image is not in the result.
func layerFiles(ctx context.Context, store content.Provider, layers []ocispec.Descriptor, names ...string) (map[string][]byte, error) {
	found := map[string][]byte{}
	want := map[string]string{} // the path to look for, and whose content that is
	for _, n := range names {
		want[n] = n
	}
	for range maxLinks {
		links := map[string]string{}
		for _, l := range slices.Backward(layers) {
			if len(want) == 0 {
				break
			}
			if err := layerFile(ctx, store, l, want, found, links); err != nil {
				return nil, fmt.Errorf("layer %s: %w", l.Digest, err)
			}
		}
		if len(links) == 0 {
			return found, nil
		}
		want = links
	}
	return nil, errors.New("too many symbolic links")
}

// layerFile takes what is wanted out of one layer: it moves from want to found, to
// links when it is one, or nowhere when the layer deletes it.
func layerFile(ctx context.Context, store content.Provider, desc ocispec.Descriptor, want map[string]string, found map[string][]byte, links map[string]string) error {
	ra, err := store.ReaderAt(ctx, desc)
	if err != nil {
		return err
	}
	defer ra.Close() //nolint:errcheck // opened to read
	plain, err := compression.DecompressStream(content.NewReader(ra))
	if err != nil {
		return err
	}
	defer plain.Close() //nolint:errcheck // opened to read
	// What a layer deletes is what the layers below have, not its own.
	var deleted []string
	for tr := tar.NewReader(plain); len(want) > 0; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + h.Name)[1:]
		dir, base := path.Split(name)
		if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
			if hidden == ".wh..opq" {
				hidden = ""
			}
			deleted = append(deleted, path.Join(dir, hidden))
			continue
		}
		whose, ok := want[name]
		if !ok {
			continue
		}
		delete(want, name)
		switch h.Typeflag {
		case tar.TypeReg:
			if found[whose], err = io.ReadAll(io.LimitReader(tr, maxAccounts)); err != nil {
				return err
			}
		case tar.TypeSymlink:
			target := h.Linkname
			if !path.IsAbs(target) {
				target = path.Join("/", dir, target)
			}
			links[path.Clean(target)[1:]] = whose
		case tar.TypeLink:
			links[path.Clean("/" + h.Linkname)[1:]] = whose
		}
	}
	for _, d := range deleted {
		for name := range want {
			if name == d || strings.HasPrefix(name, d+"/") {
				delete(want, name)
			}
		}
	}
	return nil
}
