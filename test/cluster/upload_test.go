package cluster_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/client/release/releasetest"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/transporttest"
	"github.com/tenderfleet/tender/transport/wire"
)

// An operator who reaches a follower alone adds a package all the same: it says
// who leads, and the package is read again from its beginning.
func TestUploadByWayOfAFollower(t *testing.T) {
	scenario(t, func(t *testing.T, f *cluster.Fleet, _ *transporttest.Net) {
		w := f.Web("")
		f.Trio()
		capable(f)
		cred, err := pki.LoadDir(filepath.Join(f.Replicas[0].Dir(), "operator"))
		if err != nil {
			t.Fatal(err)
		}
		lead := f.Leader()
		c, err := client.New(client.Config{Servers: []string{f.Others(lead)[0].Addr}, Credential: cred, Dial: w.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		signer := releasetest.NewSigner(t)
		if _, err := c.AddReleaseKey(t.Context(), client.AddReleaseKey{Key: signer.Public}); err != nil {
			t.Fatal(err)
		}
		file := releasetest.Package(t, "2.0-1", "arm64", bytes.Repeat([]byte("fleet"), wire.MaxPackageChunk)...)
		opened := 0
		p, err := c.AddPackage(t.Context(), int64(len(file)), []byte(signer.Sign(file)), func() (io.ReadCloser, error) {
			opened++
			return io.NopCloser(bytes.NewReader(file)), nil
		})
		if err != nil || p.Version != "v2.0" || p.Arch != "arm64" || len(p.Replicas) < 2 || opened != 2 {
			t.Errorf("%+v, %v; it was read %d times", p, err, opened)
		}
		var problem *client.Problem
		_, err = c.AddPackage(t.Context(), 4, []byte(signer.Sign(file)), func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader([]byte("else"))), nil
		})
		if !errors.As(err, &problem) || problem.Code != client.CodeInvalid {
			t.Errorf("another file: %v", err)
		}
		u, err := c.Upgrade(t.Context())
		if err != nil || len(u.Packages) != 1 || len(u.Keys) != 1 || u.Rollout != nil {
			t.Errorf("%+v, %v", u, err)
		}
	})
}
