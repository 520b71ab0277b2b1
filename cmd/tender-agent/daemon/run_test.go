package daemon

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

func read(t *testing.T, args ...string) (string, error) {
	t.Helper()
	f := pflag.NewFlagSet("run", pflag.ContinueOnError)
	addRunFlags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	v := viper.New()
	if err := v.BindPFlags(f); err != nil {
		t.Fatal(err)
	}
	o, err := offer(v)
	if err != nil {
		return "", err
	}
	var parts []string
	parts = append(parts, "ports "+o.Ports.String())
	for _, c := range o.Custom {
		parts = append(parts, c.Name+" "+c.Amount.String())
	}
	for _, r := range o.Reserve {
		parts = append(parts, string(r.Role)+" has "+r.Resources.String())
		if r.GPUs > 0 {
			parts[len(parts)-1] += " and 1 GPU"
		}
	}
	return strings.Join(parts, "; "), nil
}

func TestWhatIsOffered(t *testing.T) {
	for _, tc := range []struct{ args, want, refused string }{
		{"", "ports 31000-32000", ""},
		{"--offer-ports=", "ports ", ""},
		{"--offer-ports=8080,8081-8090", "ports 8080-8090", ""},
		{"--offer-custom=licences=3 --offer-custom=slots=0.5", "ports 31000-32000; licences 3; slots 0.5", ""},
		{"--reserve=research:cpus=4,mem=8192,gpus=1 --reserve=ops/batch:cpus=1", "ports 31000-32000; research has cpus:4;mem:8192 and 1 GPU; ops/batch has cpus:1", ""},
		{"--offer-ports=9-8", "", "--offer-ports: ports 9-8"},
		{"--offer-ports=70000", "", `"70000": write FIRST-LAST`},
		{"--offer-custom=cpus=3", "", "have flags of their own"},
		{"--offer-custom=licences", "", "write NAME=AMOUNT"},
		{"--offer-custom=x=-1", "", "not a number of zero or more"},
		{"--reserve=research", "", "write ROLE:NAME=AMOUNT"},
		{"--reserve=*:cpus=1", "", `nothing can be reserved for the role "*"`},
		{"--reserve=a//b:cpus=1", "", "role is empty"},
		{"--reserve=a:gpus=0.5", "", "must be an unsigned integer"},
	} {
		got, err := read(t, strings.Fields(tc.args)...)
		switch {
		case tc.refused == "" && (err != nil || got != tc.want):
			t.Errorf("%s: %q, %v; want %q", tc.args, got, err, tc.want)
		case tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)):
			t.Errorf("%s: %q, %v; want an error with %q", tc.args, got, err, tc.refused)
		}
	}
}

func TestWhatTheLinkMayCost(t *testing.T) {
	for _, tc := range []struct{ args, want, refused string }{
		{"", "0 B, quiet , readings 10s, keepalive 25s", ""},
		{
			"--link-budget-per-month=500MB --link-quiet-hours=06:00-22:00 --link-readings-every=1m --link-keepalive=60s",
			"500000000 B, quiet 06:00-22:00, readings 1m0s, keepalive 1m0s", "",
		},
		{"--link-budget-per-month=500", "", `--link-budget-per-month: "500": write a whole number and a unit`},
		{"--link-quiet-hours=6-22", "", "--link-quiet-hours: \"6-22\": write FROM-TO"},
		{"--link-readings-every=1ms", "", "write 1s or more"},
		{"--link-keepalive=5m", "", "is not from 15s to 1m0s"},
	} {
		f := pflag.NewFlagSet("run", pflag.ContinueOnError)
		addRunFlags(f)
		if err := f.Parse(strings.Fields(tc.args)); err != nil {
			t.Fatal(err)
		}
		v := viper.New()
		if err := v.BindPFlags(f); err != nil {
			t.Fatal(err)
		}
		l, err := link(v)
		got := fmt.Sprintf("%d B, quiet %s, readings %v, keepalive %v", l.Policy.PerMonth, l.Policy.Quiet, l.ReadingsEvery, l.Keepalive)
		switch {
		case tc.refused == "" && (err != nil || got != tc.want):
			t.Errorf("%s: %s, %v; want %s", tc.args, got, err, tc.want)
		case tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)):
			t.Errorf("%s: %s, %v; want an error with %q", tc.args, got, err, tc.refused)
		}
	}
}
