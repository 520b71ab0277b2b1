package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/tenderfleet/tender/cmd/internal/version"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/pki"
)

const (
	defaultSocket = "/run/tender/tenderd.sock"
	defaultPort   = "7443"
	// serversFile lies beside a credential and lists the replicas that it was
	// made by, so that a login is all the setting up there is.
	serversFile = "servers"
)

// settings is what flags, environment and file come to.
type settings struct {
	servers     []string
	credentials string
	socket      string
	pin         string
	tokenFile   string
	json        bool
	// socketAsked: the socket was named, so it goes before a stored login.
	socketAsked bool
}

// keys are the settings of the configuration file; each is a flag too, and a
// variable with TENDER_ before it. A token itself is none of them: it stands in
// a file or in TENDER_TOKEN.
func keys() []string {
	return []string{"credentials", "output", "pin", "server", "socket", "token-file"}
}

func variable(key string) string {
	return "TENDER_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// configure reads the settings: flags go before the environment, and that
// before the file.
func (a *app) configure(flags *pflag.FlagSet) error {
	v := viper.New()
	if err := a.readConfig(v, flags); err != nil {
		return err
	}
	fromEnv := map[string]any{}
	for _, k := range keys() {
		if val := a.env[variable(k)]; val != "" {
			fromEnv[k] = val
		}
	}
	if err := v.MergeConfigMap(fromEnv); err != nil {
		return fmt.Errorf("read environment: %w", err)
	}
	for _, k := range keys() {
		if err := v.BindPFlag(k, flags.Lookup(k)); err != nil {
			return fmt.Errorf("read flags: %w", err)
		}
	}
	return a.settle(v, flags)
}

func (a *app) settle(v *viper.Viper, flags *pflag.FlagSet) error {
	s := settings{
		credentials: a.homePath(v.GetString("credentials")), socket: a.homePath(v.GetString("socket")),
		pin: v.GetString("pin"), tokenFile: a.homePath(v.GetString("token-file")),
	}
	switch out := v.GetString("output"); out {
	case "", "table":
	case "json":
		s.json = true
	default:
		return usagef("output %q: use table or json", out)
	}
	// A list in the file is as good as commas.
	for _, part := range v.GetStringSlice("server") {
		for one := range strings.SplitSeq(part, ",") {
			server, err := serverAddr(one)
			if err != nil {
				return &usageError{err}
			}
			if server != "" {
				s.servers = append(s.servers, server)
			}
		}
	}
	// What was said nearer to the command decides.
	s.socketAsked = a.nearness(flags, "socket", s.socket != "") > a.nearness(flags, "server", len(s.servers) > 0)
	a.settings, a.tokenFlag = s, flags.Changed("token-file")
	return nil
}

// nearness ranks where a setting comes from: flag, environment, file, nowhere.
func (a *app) nearness(flags *pflag.FlagSet, key string, set bool) int {
	switch {
	case !set:
		return 0
	case flags.Changed(key):
		return 3
	case a.env[variable(key)] != "":
		return 2
	default:
		return 1
	}
}

// serverAddr completes an address with the port of a replica.
func serverAddr(s string) (string, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "https://"), "/")
	if s == "" {
		return "", nil
	}
	if _, _, err := net.SplitHostPort(s); err != nil {
		s = net.JoinHostPort(strings.Trim(s, "[]"), defaultPort)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || port == "" || strings.ContainsAny(s, "/ @?#") {
		return "", fmt.Errorf("server %q: write HOST or HOST:PORT", s)
	}
	return s, nil
}

// readConfig reads the configuration file strictly: a key that is not known
// would otherwise be a setting without effect.
func (a *app) readConfig(v *viper.Viper, flags *pflag.FlagSet) error {
	path, _ := flags.GetString("config")
	if path == "" {
		path = a.env["TENDER_CONFIG"]
	}
	asked := path != ""
	if !asked {
		path = filepath.Join(a.configDir(), "config.yaml")
	}
	path = a.homePath(path)
	v.SetConfigFile(path)
	v.SetConfigType("yaml")
	err := v.ReadInConfig()
	switch {
	case errors.Is(err, fs.ErrNotExist) && !asked:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return hint("give another with --config, or none", "there is no configuration file %s", path)
	case err != nil:
		return hint("it is YAML with the keys "+strings.Join(keys(), ", "), "configuration file %s: %w", path, err)
	}
	for _, k := range v.AllKeys() {
		if slices.Contains(keys(), k) {
			continue
		}
		word, _, _ := strings.Cut(k, ".")
		next := "known keys are " + strings.Join(keys(), ", ")
		if like := nearest(word, keys()); like != "" {
			next = fmt.Sprintf("did you mean %q?", like)
		}
		return hint(next, "configuration file %s: unknown key %q", path, k)
	}
	return nil
}

// configDir is where a user's settings and credential are.
func (a *app) configDir() string {
	if d := a.env["XDG_CONFIG_HOME"]; filepath.IsAbs(d) {
		return filepath.Join(d, "tender")
	}
	return filepath.Join(a.env["HOME"], ".config", "tender")
}

func (a *app) homePath(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(a.env["HOME"], rest)
	}
	return path
}

// credentialDir is where the operator's credential is or would be.
func (a *app) credentialDir() string {
	if a.settings.credentials != "" {
		return a.settings.credentials
	}
	return filepath.Join(a.configDir(), "credentials")
}

// connect chooses the way to the control plane: named servers, a named socket,
// the servers of a stored login, the socket of a replica on this machine.
func (a *app) connect() (*client.Client, error) {
	s := a.settings
	dir := a.credentialDir()
	cfg := client.Config{Version: version.Get().Version}
	cred, err := pki.LoadDir(dir)
	token, stored, tokenErr := a.token(dir)
	if tokenErr != nil {
		return nil, tokenErr
	}
	switch {
	case s.socketAsked:
		cfg.Socket = s.socket
	case len(s.servers) > 0:
		cfg.Servers = s.servers
	case cred != nil, token != "":
		cfg.Servers = readServers(dir)
	}
	if len(cfg.Servers) == 0 && cfg.Socket == "" {
		if token != "" && !stored {
			return nil, hint("name a replica with --server HOST:PORT", "there is a token, and no server to show it to")
		}
		cfg.Socket = defaultSocket
	}
	needed := len(cfg.Servers) > 0 || s.credentials != ""
	switch {
	case token != "":
		cfg.Token, cfg.Pin, cfg.Credential = token, cmp.Or(s.pin, readPin(dir)), cred
		if needed && cfg.Pin == "" && cred == nil {
			return nil, hint("give the pin that came with the token: --pin sha256:...", "there is nothing to know the fleet's servers by")
		}
	case err != nil && needed && errors.Is(err, pki.ErrNotJoined):
		return nil, hint("log in with 'tender login', or name the directory with --credentials", "there is no credential in %s", dir)
	case err != nil && needed:
		return nil, fmt.Errorf("credential: %w", err)
	case err == nil:
		if end := cred.Leaf().NotAfter; needed && a.now().After(end) {
			return nil, hint("check the clock; if it is right, log in again with: tender login",
				"the certificate of %s ended %s, at %s", cred.Identity.Short(), ago(a.now(), end), end.UTC().Format(time.RFC3339))
		}
		cfg.Credential = cred
	}
	return client.New(cfg)
}

// readServers reads what saveServers wrote; nothing when there is nothing.
func readServers(dir string) []string {
	data, err := os.ReadFile(filepath.Join(dir, serversFile))
	if err != nil {
		return nil
	}
	var out []string
	for s := range strings.FieldsSeq(string(data)) {
		if addr, err := serverAddr(s); err == nil && addr != "" {
			out = append(out, addr)
		}
	}
	return out
}

func saveServers(dir string, servers []string) error {
	return os.WriteFile(filepath.Join(dir, serversFile), []byte(strings.Join(servers, "\n")+"\n"), 0o600)
}
