package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/cmd/internal/conf"
	"github.com/tenderfleet/tender/pki"
)

// Lines that somebody dropped for a machine without a visitor: one is used, none
// stays, and none is lost while nobody has answered.
func TestClaim(t *testing.T) {
	line := func(domain string) string {
		return pki.JoinLine{
			Kind: pki.KindAgent, Addrs: []string{"127.0.0.1:7443"}, Pin: "sha256:" + strings.Repeat("A", 43),
			Secret: pki.NewSecret(), TrustDomain: domain, Expires: time.Now().Add(time.Hour),
		}.String() + "\n"
	}
	refused := &conf.ExitError{Code: exitForGood, Err: errors.New("used up")}
	for name, c := range map[string]struct {
		files       map[string]string
		answers     map[string]error // by trust domain
		asked, left string
		failed      bool
	}{
		"one line":         {map[string]string{"claim": line("a.test")}, nil, "a.test", "", false},
		"the first is bad": {map[string]string{"1": "tender1.xx", "2": line("b.test")}, nil, "b.test", "", false},
		"refused, then another": {
			map[string]string{"1": line("a.test"), "2": line("b.test"), "3": line("c.test")},
			map[string]error{"a.test": refused},
			"a.test b.test", "", false,
		},
		"nobody answers": {
			map[string]string{"1": line("a.test"), "2": line("b.test")},
			map[string]error{"a.test": errors.New("no uplink")},
			"a.test", "1 2", true,
		},
		"nothing there": {},
	} {
		dir := t.TempDir()
		for f, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var asked []string
		var told strings.Builder
		err := claim(t.Context(), dir, &told, func(_ context.Context, text string) error {
			l, err := pki.ParseJoinLine(text)
			if err != nil {
				t.Error(err)
			}
			asked = append(asked, l.TrustDomain)
			return c.answers[l.TrustDomain]
		})
		if (err != nil) != c.failed || strings.Join(asked, " ") != c.asked {
			t.Errorf("%s: asked %v, error %v", name, asked, err)
		}
		var left []string
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			left = append(left, e.Name())
		}
		slices.Sort(left)
		if strings.Join(left, " ") != c.left {
			t.Errorf("%s: left %v", name, left)
		}
		for _, text := range c.files {
			if strings.Contains(told.String(), strings.TrimSpace(text)) {
				t.Errorf("%s: a secret is told: %s", name, told.String())
			}
		}
	}
}
