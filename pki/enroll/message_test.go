package enroll_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/pki/pkitest"
)

func TestCleanName(t *testing.T) {
	for in, want := range map[string]string{
		"gpu-01": "gpu-01", "GPU-01.lab.example": "gpu-01", "": "agent", "...": "agent", "Ünïcode": "n-code",
		"my host": "my-host", "10.0.0.5": "10.0.0.5", "-x-": "x", "2001:db8::1": "2001-db8--1",
		strings.Repeat("a", 62) + "-b": strings.Repeat("a", 62),
	} {
		if got := enroll.CleanName(in, "agent"); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
		probe := pki.Identity{TrustDomain: "x", Kind: pki.KindAgent, ID: enroll.CleanName(in, "agent")}
		if err := probe.Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestRequestCheck(t *testing.T) {
	line := newFleet(t, nil).line(pki.KindAgent)
	good := request(t, line, pkitest.Key(t))
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	many := make(map[string]string)
	for i := range 65 {
		many[fmt.Sprint(i)] = ""
	}
	for name, change := range map[string]func(*enroll.Request){
		"kind":               func(r *enroll.Request) { r.Kind = "root" },
		"name":               func(r *enroll.Request) { r.Name = "../a" },
		"no secret":          func(r *enroll.Request) { r.Secret = "" },
		"long secret":        func(r *enroll.Request) { r.Secret = strings.Repeat("x", 129) },
		"host with escapes":  func(r *enroll.Request) { r.Hostname = "a\x1b[2J" },
		"labels":             func(r *enroll.Request) { r.Labels = many },
		"label with newline": func(r *enroll.Request) { r.Labels = map[string]string{"a": "b\nc"} },
		"label without key":  func(r *enroll.Request) { r.Labels = map[string]string{"": "b"} },
		"capability":         func(r *enroll.Request) { r.Capability = 0 },
		"address of an agent": func(r *enroll.Request) {
			r.Addr = "a:1"
		},
		"replica without address": func(r *enroll.Request) { r.Kind, r.IntermediateCSR = pki.KindReplica, r.CSR },
		"replica without authority": func(r *enroll.Request) {
			r.Kind, r.Addr = pki.KindReplica, "a:1"
		},
	} {
		r := good
		r.Labels = maps.Clone(good.Labels)
		change(&r)
		if err := r.Check(); !errors.Is(err, enroll.ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
