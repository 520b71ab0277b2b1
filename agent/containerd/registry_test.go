package containerd

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	testimage "github.com/tenderfleet/tender/test/image"
)

// testRegistry is a registry on the loopback, without TLS.
type testRegistry struct {
	host   string
	server *httptest.Server

	mu     sync.Mutex
	blobs  int // how many were fetched
	refuse int // the status of every answer, when not 0

	carried atomic.Pointer[atomic.Int64] // see meter
}

// meter returns a counter of what connections carry, both ways, that are opened
// from now on.
func (r *testRegistry) meter() *atomic.Int64 {
	n := new(atomic.Int64)
	r.carried.Store(n)
	return n
}

// countedListener counts what its connections carry.
type countedListener struct {
	net.Listener
	carried *atomic.Pointer[atomic.Int64]
}

func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countedConn{c, l.carried.Load()}, nil
}

type countedConn struct {
	net.Conn
	carried *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.carried.Add(int64(n))
	return n, err
}

func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.carried.Add(int64(n))
	return n, err
}

func newRegistry(t testing.TB) *testRegistry {
	r := &testRegistry{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			r.blobs++
		}
		refuse := r.refuse
		r.mu.Unlock()
		if refuse != 0 {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(refuse)
			return
		}
		inner.ServeHTTP(w, req)
	}))
	r.meter()
	r.server.Listener = countedListener{r.server.Listener, &r.carried}
	r.server.Start()
	t.Cleanup(r.server.Close)
	r.host = strings.TrimPrefix(r.server.URL, "http://")
	return r
}

func (r *testRegistry) setRefuse(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = status
}

func (r *testRegistry) fetched() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blobs
}

// push puts the image that o describes under a reference, which it returns:
// its manifest, or when index is set the index around that.
func (r *testRegistry) push(t testing.TB, repo string, index bool, o testimage.Options) string {
	t.Helper()
	archive, err := testimage.Build(o)
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, archive)
	var idx struct{ Manifests []struct{ Digest string } }
	if err := json.Unmarshal(files["index.json"], &idx); err != nil {
		t.Fatal(err)
	}
	manifest := idx.Manifests[0].Digest
	for file, data := range files {
		if sum, ok := strings.CutPrefix(file, "blobs/sha256/"); ok && "sha256:"+sum != manifest {
			r.send(t, http.MethodPost, repo+"/blobs/uploads/?digest=sha256:"+sum, "application/octet-stream", data)
		}
	}
	data := files["blobs/sha256/"+strings.TrimPrefix(manifest, "sha256:")]
	const oci = "application/vnd.oci.image."
	if index {
		r.send(t, http.MethodPut, repo+"/manifests/"+manifest, oci+"manifest.v1+json", data)
		r.send(t, http.MethodPut, repo+"/manifests/1", oci+"index.v1+json", files["index.json"])
	} else {
		r.send(t, http.MethodPut, repo+"/manifests/1", oci+"manifest.v1+json", data)
	}
	return r.host + "/" + repo + ":1"
}

func (r *testRegistry) send(t testing.TB, method, path, mediaType string, data []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.server.URL+"/v2/"+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := r.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

func untar(t testing.TB, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}
