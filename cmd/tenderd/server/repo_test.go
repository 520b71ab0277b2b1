package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func TestOnlyTheRepositoryIsServed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	put := func(name string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv := httptest.NewServer(repoHandler(dir))
	defer srv.Close()
	get := func(method, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // only read
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, _ := get("GET", "/InRelease"); code != http.StatusNotFound {
		t.Errorf("before there is a repository: %d", code)
	}
	for _, name := range []string{"InRelease", "Packages.gz", "tender_0.2.0-1_amd64.deb", "tender-archive-keyring.gpg", "secret.key", "sub/InRelease"} {
		put(name)
	}
	if err := os.WriteFile(filepath.Join(dir, "..", "Release"), []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../Release", filepath.Join(dir, "Release")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "a.deb"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"GET", "/InRelease", 200, "of InRelease"},
		{"GET", "/./Packages.gz", 200, "of Packages.gz"},
		{"GET", "/tender_0.2.0-1_amd64.deb", 200, "of tender_0.2.0-1_amd64.deb"},
		{"GET", "/tender-archive-keyring.gpg", 200, "of tender-archive-keyring.gpg"},
		{"HEAD", "/InRelease", 200, ""},
		{"POST", "/InRelease", 405, "only GET and HEAD\n"},
		{"GET", "/", 404, "404 page not found\n"},
		{"GET", "/a.deb", 404, "404 page not found\n"},
		{"GET", "/a.deb/", 404, "404 page not found\n"},
		{"GET", "/secret.key", 404, "404 page not found\n"},
		{"GET", "/Packages", 404, "404 page not found\n"},
		{"GET", "/Release", 404, "404 page not found\n"}, // leads out of the directory
		{"GET", "/../Release", 404, "404 page not found\n"},
		{"GET", "/%2e%2e/Release", 404, "404 page not found\n"},
	} {
		if code, body := get(tc.method, tc.path); code != tc.code || body != tc.body {
			t.Errorf("%s %s: %d %q, want %d %q", tc.method, tc.path, code, body, tc.code, tc.body)
		}
	}
}
