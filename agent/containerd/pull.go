package containerd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"github.com/tenderfleet/tender/agent/executor"
)

// pull fetches the image from its registry, for this machine's platform only,
// and unpacks it on the way. Of many that want the same image, one downloads.
func (x *Executor) pull(ctx context.Context, ref string) (*image, error) {
	unlock, err := x.pulling.lock(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	stored, err := x.client.ImageService().Get(ctx, ref)
	if err == nil {
		if img, err := x.load(ctx, stored); !errdefs.IsNotFound(err) {
			return img, err
		}
	}
	if x.cfg.MayFetch != nil {
		if err := x.cfg.MayFetch(); err != nil {
			return nil, fmt.Errorf("%w: image %s is not on this machine and not fetched now: %w", executor.ErrPostponed, ref, err)
		}
	}
	x.log.InfoContext(ctx, "pulling image", "image", ref)
	var img client.Image
	err = x.leased(ctx, func(ctx context.Context) (err error) {
		img, err = x.client.Pull(ctx, ref,
			client.WithResolver(x.resolver()),
			client.WithPullUnpack,
			client.WithPullSnapshotter(x.cfg.Snapshotter))
		return err
	})
	if err != nil {
		return nil, pullError(ref, err)
	}
	loaded, err := x.load(ctx, img.Metadata())
	if errdefs.IsNotFound(err) {
		return nil, invalid("image %s has nothing for this machine: %v", ref, err)
	}
	return loaded, err
}

func (x *Executor) resolver() remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(
			docker.WithClient(&http.Client{Transport: x.registries}),
			docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthCreds(x.cfg.Credentials))),
			docker.WithPlainHTTP(func(host string) (bool, error) {
				return slices.Contains(x.cfg.PlainHTTPRegistries, host), nil
			}),
		),
	})
}

// toRegistries is how this executor speaks with registries. fetched is told of
// all that its sockets carry, both ways, also of what is given up half-way.
func toRegistries(fetched func(int64)) *http.Transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, MaxIdleConns: 16,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil || fetched == nil {
				return c, err
			}
			return &meteredConn{c, fetched}, nil
		},
	}
}

type meteredConn struct {
	net.Conn
	fetched func(int64)
}

func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.fetched(int64(n))
	return n, err
}

func (c *meteredConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.fetched(int64(n))
	return n, err
}

// pullError says what went wrong between this machine and the registry, and
// whether trying again can help.
func pullError(ref string, err error) error {
	var status remoteerrors.ErrUnexpectedStatus
	var network *url.Error
	switch {
	case errors.Is(err, docker.ErrInvalidAuthorization),
		errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return invalid("image %s: the registry refuses access, or has no such image; check the name and this agent's credentials: %v", ref, err)
	case errors.As(err, &status):
		return fmt.Errorf("pull image %s: the registry answers %s; try again later: %w", ref, status.Status, err)
	case errors.As(err, &network):
		return fmt.Errorf("%w: pull image %s: the registry cannot be reached; check this machine's network, "+
			"or import the image from an archive: %w", executor.ErrNoImage, ref, err)
	case strings.Contains(err.Error(), "no match for platform"):
		return invalid("image %s is not made for linux/%s, which this machine is; use another or a constraint on the architecture",
			ref, runtime.GOARCH)
	case errdefs.IsNotFound(err):
		return invalid("image %s is not on this machine, and its registry has no such image; check the name: %v", ref, err)
	default:
		return fmt.Errorf("pull image %s: %w", ref, err)
	}
}

func randomName() string { return strings.ToLower(rand.Text()) }
