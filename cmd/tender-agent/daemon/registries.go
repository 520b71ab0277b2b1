package daemon

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxRegistries bounds the file with registries' credentials, in bytes.
const maxRegistries = 1 << 20

// registriesCredential is the name that the unit loads the file by.
const registriesCredential = "registries.json"

// registriesFile is the file with credentials of registries: the one that is set,
// or what the unit has loaded of /etc/tender/registries.json; "" for none.
func registriesFile(set string) string {
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); set == "" && dir != "" {
		return filepath.Join(dir, registriesCredential)
	}
	return set
}

// registries returns how a user and a secret for a registry are found in a file
// as 'docker login' writes it: {"auths": {"HOST[:PORT]": {"auth": "..."}}}. It is
// read at each use. Without a file, or an entry, both are empty.
func registries(path string) func(host string) (user, secret string, err error) {
	return func(host string) (user, secret string, err error) {
		if path == "" {
			return "", "", nil
		}
		user, secret, err = credentialsOf(path, host)
		if err != nil {
			err = fmt.Errorf("credentials of registry %s, %s: %w", host, path, err)
		}
		return user, secret, err
	}
}

func credentialsOf(path, host string) (user, secret string, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxRegistries+1))
	switch {
	case err != nil:
		return "", "", err
	case len(data) > maxRegistries:
		return "", "", fmt.Errorf("it has more than %d bytes", maxRegistries)
	case len(strings.TrimSpace(string(data))) == 0: // the unit's stand-in for no file
		return "", "", nil
	}
	var doc struct {
		Auths map[string]struct {
			Auth     string `json:"auth"`
			Username string `json:"username"`
			Password string `json:"password"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return "", "", errors.New(`it is not JSON of the form {"auths": {"HOST": {"auth": "..."}}}`) // and never quoted
	}
	for name, a := range doc.Auths {
		if registryHost(name) != host {
			continue
		}
		if a.Auth == "" {
			return a.Username, a.Password, nil
		}
		plain, err := base64.StdEncoding.DecodeString(a.Auth)
		user, secret, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok {
			return "", "", errors.New(`"auth" is not USER:SECRET in base64`)
		}
		return user, secret, nil
	}
	return "", "", nil
}

// registryHost is the host that is spoken to for an entry, which may be an
// address, and for Docker's own registry goes by several names.
func registryHost(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
	name, _, _ = strings.Cut(name, "/")
	switch name {
	case "docker.io", "index.docker.io":
		return "registry-1.docker.io"
	}
	return name
}
