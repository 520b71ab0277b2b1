package containerd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestUnlimitableIsInvalid(t *testing.T) {
	full := task("t", nil)
	for _, c := range []struct{ controllers, want string }{
		{"cpu memory pids", ""},
		{"memory pids", "cannot limit processor time"},
		{"cpu pids", "cannot limit memory"},
		{"cpu memory", "cannot limit the number of processes"},
	} {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte(c.controllers+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := detectCgroups(root).resources(full)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, executor.ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("with %q: error %v", c.controllers, err)
		}
	}
}

func TestCountersOfVersion2(t *testing.T) {
	root := t.TempDir()
	c := cgroups{root: root, unified: true}
	if err := os.MkdirAll(filepath.Join(root, "ns/id"), 0o700); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n": false, "oom 1\noom_kill 1\noom_group_kill 0\n": true} {
		if err := os.WriteFile(filepath.Join(root, "ns/id/memory.events"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := c.oomKills("ns/id"); err != nil || got != want {
			t.Errorf("%q: %v, error %v", text, got, err)
		}
	}
}

func TestContainerNames(t *testing.T) {
	for id, own := range map[fleet.TaskID]bool{"a": true, "a-b_c.d": true, "0": true, "a--b": false, "a-": false, "a._b": false, "x-ray": false} {
		name := containerName(id)
		if (name == string(id)) != own {
			t.Errorf("the container of %s is %s", id, name)
		}
		if !own && (len(name) > 76 || !strings.HasPrefix(name, "x-")) {
			t.Errorf("the container of %s is %s", id, name)
		}
	}
	if memBytes(fleet.MaxScalar) <= 0 || memBytes(1500) != 3<<19 {
		t.Errorf("%d, %d", memBytes(fleet.MaxScalar), memBytes(1500))
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Address: "/run/x.sock", LogDir: "/x", LogBinary: []string{"/x", "log"}}
	for want, change := range map[string]func(*Config){
		"address":       func(c *Config) { c.Address = "" },
		"log directory": func(c *Config) { c.LogDir = "x" },
		"log binary":    func(c *Config) { c.LogBinary = []string{"x"} },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", want, err)
		}
	}
}

func TestSeccompIsForTheNativeArchitecture(t *testing.T) {
	p := seccompProfile()
	if len(p.Architectures) != 0 || len(p.Syscalls) < 2 || p.DefaultAction != "SCMP_ACT_ERRNO" {
		t.Errorf("architectures %v, %d rules, by default %s", p.Architectures, len(p.Syscalls), p.DefaultAction)
	}
}
