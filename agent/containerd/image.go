package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
)

// image is what a container needs to know of one; it never changes.
type image struct {
	target digest.Digest
	// parent is the snapshot of the unpacked layers.
	parent string
	config ocispec.ImageConfig

	// layers are the lowest first.
	layers []ocispec.Descriptor

	mu       sync.Mutex
	accounts map[string][]byte     // the files of the image's users, once read
	users    map[string]specs.User // resolved from them
}

// imageCache spares a Start the reading of manifest, configuration and users.
// Its key is the digest, so a name that moves to other content is no problem.
type imageCache struct {
	mu     sync.Mutex
	images map[digest.Digest]*image
}

// maxImages bounds the cache; a machine that uses more forgets them all and
// reads them again.
const maxImages = 256

func newImageCache() *imageCache { return &imageCache{images: map[digest.Digest]*image{}} }

func (c *imageCache) get(d digest.Digest) *image {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.images[d]
}

func (c *imageCache) put(i *image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.images) >= maxImages {
		clear(c.images)
	}
	c.images[i.target] = i
}

func (c *imageCache) drop(d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.images, d)
}

// Import stores the images of an OCI or Docker archive and returns their names.
func (x *Executor) Import(ctx context.Context, archive io.Reader) ([]string, error) {
	var imgs []images.Image
	err := x.leased(ctx, func(ctx context.Context) (err error) {
		imgs, err = x.client.Import(ctx, archive, client.WithAllPlatforms(true), client.WithSkipMissing())
		return err
	})
	if err != nil {
		return nil, x.wrap(ctx, "import images", err)
	}
	var names []string
	for _, i := range imgs {
		names = append(names, i.Name)
	}
	if len(names) == 0 {
		return nil, errors.New("import images: the archive names none; give it an io.containerd.image.name annotation or a tag")
	}
	slices.Sort(names)
	return names, nil
}

// image finds the image in the local store, or pulls it.
func (x *Executor) image(ctx context.Context, name string) (*image, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return nil, invalid("image %q is not a reference such as docker.io/library/busybox:1.36: %w", name, err)
	}
	stored, err := x.client.ImageService().Get(ctx, ref.String())
	if errdefs.IsNotFound(err) {
		return x.pull(ctx, ref.String())
	}
	if err != nil {
		return nil, err
	}
	if img := x.images.get(stored.Target.Digest); img != nil {
		return img, nil
	}
	img, err := x.load(ctx, stored)
	if errdefs.IsNotFound(err) { // the name is known, its content is not all there
		return x.pull(ctx, ref.String())
	}
	return img, err
}

// load reads a stored image's configuration, checks that it is for this
// machine, and unpacks it if it is not yet.
func (x *Executor) load(ctx context.Context, stored images.Image) (*image, error) {
	store := x.client.ContentStore()
	available, err := images.Platforms(ctx, store, stored.Target)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(available, platforms.Default().Match) {
		var names []string
		for _, p := range available {
			names = append(names, p.OS+"/"+p.Architecture)
		}
		return nil, invalid("image %s is for %s, this machine is linux/%s; use an image for it or a constraint on the architecture",
			stored.Name, strings.Join(names, ", "), runtime.GOARCH)
	}
	desc, err := stored.Config(ctx, store, platforms.Default())
	if err != nil {
		return nil, err
	}
	blob, err := content.ReadBlob(ctx, store, desc)
	if err != nil {
		return nil, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(blob, &config); err != nil {
		return nil, invalid("image %s has a broken configuration: %w", stored.Name, err)
	}
	if len(config.RootFS.DiffIDs) == 0 {
		return nil, invalid("image %s has no layers", stored.Name)
	}
	manifest, err := images.Manifest(ctx, store, stored.Target, platforms.Default())
	if err != nil {
		return nil, err
	}
	chain := identity.ChainIDs(slices.Clone(config.RootFS.DiffIDs)) // it writes over what it is given
	img := &image{
		target: stored.Target.Digest,
		parent: chain[len(chain)-1].String(),
		config: config.Config,
		layers: manifest.Layers,
		users:  map[string]specs.User{},
	}
	if err := x.unpack(ctx, stored, chain); err != nil {
		return nil, fmt.Errorf("unpack image %s: %w", stored.Name, err)
	}
	x.images.put(img)
	return img, nil
}

// unpack makes what is missing of an image's layers, and sees to it that they
// outlive a loss of power.
func (x *Executor) unpack(ctx context.Context, stored images.Image, chain []digest.Digest) error {
	if ok, err := x.durable(ctx, chain); ok || err != nil {
		return err
	}
	if err := x.discard(ctx, chain); err != nil {
		return err
	}
	if _, err := x.snaps.Stat(ctx, chain[len(chain)-1].String()); errdefs.IsNotFound(err) {
		err = x.leased(ctx, func(ctx context.Context) error {
			return client.NewImage(x.client, stored).Unpack(ctx, x.cfg.Snapshotter)
		})
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return x.keep(ctx, chain)
}

// leased runs f under a lease that keeps what it makes from containerd's
// garbage collector. The client's own leases would stay for a day when ctx
// ends early; this one is given back, with what nothing refers to.
func (x *Executor) leased(ctx context.Context, f func(context.Context) error) (err error) {
	service, id := x.client.LeasesService(), "tender-"+randomName()
	defer func() {
		var opts []leases.DeleteOpt
		if err != nil {
			opts = append(opts, leases.SynchronousDelete)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		delErr := service.Delete(ctx, leases.Lease{ID: id}, opts...)
		if delErr != nil && !errdefs.IsNotFound(delErr) {
			x.log.WarnContext(ctx, "cannot give back a lease; it expires within a day", "lease", id, "error", delErr)
		}
	}()
	// Not cancelled: it could have its effect after the lease was given back.
	create, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	_, err = service.Create(create, leases.WithID(id), leases.WithExpiration(24*time.Hour))
	cancel()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	// The client would write lines of its own to stderr; what matters is in
	// its errors.
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	return f(log.WithLogger(leases.WithLease(ctx, id), logrus.NewEntry(quiet)))
}
