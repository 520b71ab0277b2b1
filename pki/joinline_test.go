package pki_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/pkitest"
)

func someLine(tb testing.TB) pki.JoinLine {
	return pki.JoinLine{
		Kind: pki.KindAgent, Addrs: []string{"tender.example:8750", "[2001:db8::1]:8750", "10.0.0.1:8750"},
		Pin: pki.Pin(pkitest.New(tb, "fleet.example").Root), Secret: pki.NewSecret(),
		TrustDomain: "fleet.example", Expires: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	}
}

func TestJoinLine(t *testing.T) {
	l := someLine(t)
	s := l.String()
	if strings.ContainsAny(s, " \t\n'\"$&;|<>\\`!*?()[]{}#~") || !strings.HasPrefix(s, "tender1.") {
		t.Errorf("not safe to paste: %s", s)
	}
	got, err := pki.ParseJoinLine(" " + s[:40] + "\r\n  " + s[40:] + "\n")
	if err != nil || !reflect.DeepEqual(got, l) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if a, b := pki.NewSecret(), pki.NewSecret(); a == b || len(a) < 43 {
		t.Errorf("secrets %q %q", a, b)
	}
	if h := pki.HashSecret("x"); len(h) != 64 || h == pki.HashSecret("y") {
		t.Errorf("hash %q", h)
	}
	change := func(f func(*pki.JoinLine)) string {
		c := l
		f(&c)
		return c.String()
	}
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", "empty"},
		{"something else", "SWMTKN-1-abc", "paste the whole line"},
		{"newer form", "tender2.abc", "same version"},
		{"cut at the end", s[:len(s)-3], "cut short"},
		{"cut in the middle", s[:60], "cut short"},
		{"nothing after the dot", "tender1.", "cut short"},
		{"one character off", s[:30] + string(s[30]^1) + s[31:], "checksum"},
		{"not base64", "tender1.%%%%%%%%", "damaged"},
		{"too long", s + strings.Repeat("A", 5000), "limit"},
		{"no address", change(func(l *pki.JoinLine) { l.Addrs = nil }), "0 addresses"},
		{"bad address", change(func(l *pki.JoinLine) { l.Addrs = []string{"host"} }), "HOST:PORT"},
		{"bad pin", change(func(l *pki.JoinLine) { l.Pin = "sha256:abc" }), "pin"},
		{"no secret", change(func(l *pki.JoinLine) { l.Secret = "" }), "secret"},
		{"bad kind", change(func(l *pki.JoinLine) { l.Kind = "root" }), "kind"},
		{"bad trust domain", change(func(l *pki.JoinLine) { l.TrustDomain = "A B" }), "trust domain"},
		{"no expiry", change(func(l *pki.JoinLine) { l.Expires = time.Time{} }), "expiry"},
	} {
		_, err := pki.ParseJoinLine(tt.in)
		if !errors.Is(err, pki.ErrJoinLine) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), l.Secret) {
			t.Errorf("%s: the error tells the secret", tt.name)
		}
	}
}

func FuzzParseJoinLine(f *testing.F) {
	f.Add(someLine(f).String())
	f.Add("tender1.")
	f.Add("tender2.AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := pki.ParseJoinLine(s)
		if err != nil {
			return
		}
		again, err := pki.ParseJoinLine(l.String())
		if err != nil || again.String() != l.String() {
			t.Errorf("%+v does not come back: %+v, %v", l, again, err)
		}
	})
}
