package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tenderfleet/tender/cmd/internal/version"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
)

// A login with a token stores these instead of a credential.
const (
	tokenFile = "token"
	pinFile   = "pin"
	maxToken  = 4 << 10
)

// token returns the bearer token to show, empty for none, and whether it is
// that of the stored login. What was said nearer to the command decides.
func (a *app) token(dir string) (token string, stored bool, err error) {
	switch {
	case a.tokenFlag:
		token, err = a.readToken(a.settings.tokenFile)
	case a.env["TENDER_TOKEN"] != "":
		token = strings.TrimSpace(a.env["TENDER_TOKEN"])
	case a.settings.tokenFile != "":
		token, err = a.readToken(a.settings.tokenFile)
	default:
		token, err = loadToken(dir)
		stored = true
	}
	return token, stored, err
}

// readToken reads a token from a file, or from stdin for "-".
func (a *app) readToken(path string) (string, error) {
	in := a.In
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read from
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxToken))
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(strings.Fields(token)) > 1 {
		return "", hint("a token is one word, NAME.SECRET; make one with: tender principal create", "there is no token in %s", path)
	}
	return token, nil
}

// loadToken reads the token of a stored login, empty when there is none.
func loadToken(dir string) (string, error) {
	path := filepath.Join(dir, tokenFile)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read token: %w", err)
	case info.Mode().Perm()&0o077 != 0:
		return "", hint("chmod 600 it, and revoke the token if others had access", "others can read the token %s (mode %04o)", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func readPin(dir string) string {
	data, _ := os.ReadFile(filepath.Join(dir, pinFile)) // none is as good as an empty one
	return strings.TrimSpace(string(data))
}

// loginByToken stores a token, after the control plane has accepted it.
func (a *app) loginByToken(ctx context.Context, dir string, force bool) error {
	token, err := a.readToken(a.settings.tokenFile)
	if err != nil {
		return err
	}
	s := a.settings
	switch {
	case len(s.servers) == 0:
		return hint("tender principal create says both", "say where the fleet is with --server, and which with --pin")
	case s.pin == "":
		return hint("tender principal create says it", "say which fleet it is with --pin sha256:...")
	}
	if old, err := loadToken(dir); err != nil || old != "" && !force {
		return hint("use another directory with --credentials, or replace it with --force", "%s already holds a token", dir)
	}
	if err := a.keepCredential(dir, force); err != nil {
		return err
	}
	c, err := client.New(client.Config{Servers: s.servers, Token: token, Pin: s.pin, Version: version.Get().Version})
	if err != nil {
		return err
	}
	defer c.Close()
	who, err := c.Whoami(ctx)
	if err != nil {
		return err
	}
	if err := saveToken(dir, token, s.pin, s.servers); err != nil {
		return fmt.Errorf("save token: %w", err)
	}
	fmt.Fprintf(a.Err, "You are %s. The token is in %s.\n", clean(who.Principal), dir)
	return nil
}

// keepCredential refuses to throw away a credential that still holds.
func (a *app) keepCredential(dir string, force bool) error {
	if old, err := pki.LoadDir(dir); err == nil && a.now().Before(old.Leaf().NotAfter) && !force {
		return hint("use another directory with --credentials, or replace it with --force", "%s already holds the credential of %s", dir, old.Identity)
	}
	return nil
}

func saveToken(dir, token, pin string, servers []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := forget(dir, "key.pem", "cert.pem", "bundle.pem", tokenFile, pinFile); err != nil {
		return err
	}
	for name, text := range map[string]string{tokenFile: token, pinFile: pin} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			return err
		}
	}
	return saveServers(dir, servers)
}

// forget removes files of a login that another replaces.
func forget(dir string, names ...string) error {
	for _, n := range names {
		if err := os.Remove(filepath.Join(dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
