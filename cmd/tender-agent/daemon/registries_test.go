package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRegistries(t *testing.T) {
	const good = `{"auths": {
		"registry.example:5000": {"auth": "YWxpY2U6czNjcjN0OngK"},
		"https://index.docker.io/v1/": {"username": "bob", "password": "pw"},
		"bad.example": {"auth": "AAAA"}
	}, "credsStore": "desktop"}`
	path := filepath.Join(t.TempDir(), "registries.json")
	for _, tc := range []struct {
		file, host         string
		user, secret, fail string
	}{
		{good, "registry.example:5000", "alice", "s3cr3t:x\n", ""},
		{good, "registry.example", "", "", ""},
		{good, "registry-1.docker.io", "bob", "pw", ""},
		{good, "bad.example", "", "", `"auth" is not USER:SECRET in base64`},
		{"", "registry.example", "", "", ""}, // as the unit makes it where there is none
		{"\n", "registry.example", "", "", ""},
		{`{"auths": "s3cr3t"}`, "x", "", "", "it is not JSON of the form"},
		{strings.Repeat(" ", maxRegistries+1), "x", "", "", "more than 1048576 bytes"},
	} {
		if err := os.WriteFile(path, []byte(tc.file), 0o600); err != nil {
			t.Fatal(err)
		}
		user, secret, err := registries(path)(tc.host)
		switch {
		case tc.fail == "" && (err != nil || user != tc.user || secret != tc.secret):
			t.Errorf("%s: %q, %q, %v; want %q, %q", tc.host, user, secret, err, tc.user, tc.secret)
		case tc.fail != "" && (err == nil || !strings.Contains(err.Error(), tc.fail) || strings.Contains(err.Error(), "s3cr3t")):
			t.Errorf("%s: %v, want an error with %q and no secret", tc.host, err, tc.fail)
		}
	}
	for _, none := range []string{"", path + ".none"} {
		if user, secret, err := registries(none)("x"); user != "" || secret != "" || err != nil {
			t.Errorf("file %q: %q, %q, %v", none, user, secret, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/c")
	if got := registriesFile(""); got != "/run/c/registries.json" {
		t.Errorf("under the unit: %s", got)
	}
	if got := registriesFile("/x"); got != "/x" {
		t.Errorf("set: %s", got)
	}
}
