package containerd

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/test/ctrd"
	testimage "github.com/tenderfleet/tender/test/image"
)

// A registry that asks who is there has its answer; without one the task says so.
func TestRegistryWithCredentials(t *testing.T) {
	w := newWorld(t, ctrd.Debian(t))
	ref := w.registry.push(t, "private", false, testimage.Options{Env: []string{"A=9"}})
	open, err := url.Parse(w.registry.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(open)
	guarded := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if user, secret, _ := req.BasicAuth(); user != "alice" || secret != "s3cr3t" {
			rw.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(rw, req)
	}))
	t.Cleanup(guarded.Close)
	host := strings.TrimPrefix(guarded.URL, "http://")
	private := task("private", sh("echo pulled"))
	private.Spec.Image = strings.Replace(ref, w.registry.host, host, 1)
	with := func(secret string) *Executor {
		return w.open(t, func(cfg *Config) {
			cfg.PlainHTTPRegistries = append(cfg.PlainHTTPRegistries, host)
			cfg.Credentials = func(asked string) (string, string, error) {
				if asked != host {
					t.Errorf("credentials of %q are asked for, not of %q", asked, host)
				}
				return "alice", secret, nil
			}
		})
	}
	if err := with("wrong").Start(t.Context(), private); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with the wrong secret: %v, want an error that does not say it", err)
	}
	wantPrinted(t, with("s3cr3t"), private, "pulled\n")
	w.checkClean(t)
}
