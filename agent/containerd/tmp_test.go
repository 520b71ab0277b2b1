package containerd

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/test/ctrd"
	testimage "github.com/tenderfleet/tender/test/image"
)

func TestTmp(t *testing.T) {
	for _, bin := range []string{ctrd.Debian(t), ctrd.V2(t)} {
		w := newWorld(t, bin)
		x := w.open(t)
		a, _ := testimage.Build(testimage.Options{Name: "example.org/t/x:1", Files: map[string]testimage.File{
			"/opt/noexec":   {Data: []byte("#!/bin/sh\n")},
			"/opt/text":     {Mode: 0o755, Data: []byte("hello")},
			"/opt/nointerp": {Mode: 0o755, Data: []byte("#!/bin/nothing\n")},
			"/opt/elf":      {Mode: 0o755, Data: append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 200)...)},
			"/opt/secret/x": {Mode: 0o700, Data: []byte("hello")},
		}})
		if _, err := x.Import(context.Background(), bytes.NewReader(a)); err != nil {
			t.Fatal(err)
		}
		for name, f := range map[string]func(*executor.Task){
			"abs missing":  func(t *executor.Task) { t.Spec.Command = []string{"/nope"} },
			"dir":          func(t *executor.Task) { t.Spec.Command = []string{"/opt"} },
			"noexec":       func(t *executor.Task) { t.Spec.Command = []string{"/opt/noexec"} },
			"text":         func(t *executor.Task) { t.Spec.Command = []string{"/opt/text"} },
			"nointerp":     func(t *executor.Task) { t.Spec.Command = []string{"/opt/nointerp"} },
			"elf":          func(t *executor.Task) { t.Spec.Command = []string{"/opt/elf"} },
			"user no perm": func(t *executor.Task) { t.Spec.User = "1000"; t.Spec.Command = []string{"/opt/secret/x"} },
			"cwd missing":  func(t *executor.Task) { t.Spec.WorkDir = "/nope/x" },
			"cwd ro":       func(t *executor.Task) { t.Spec.WorkDir = "/nope/x"; t.Spec.ReadOnly = true },
			"cwd file":     func(t *executor.Task) { t.Spec.WorkDir = "/etc/passwd" },
			"user":         func(t *executor.Task) { t.Spec.User = "ghost" },
			"low mem":      func(t *executor.Task) { t.Resources.Mem = 1000 },
			"low mem2":      func(t *executor.Task) { t.Resources.Mem = 4000 },
			"low cpu":      func(t *executor.Task) { t.Resources.CPUs = 1 },
			"pids 1":      func(t *executor.Task) { t.Spec.PIDs = 1 },
			"nul":      func(t *executor.Task) { t.Spec.Env = map[string]string{"A=B": "x\x00y"} },
		} {
			tk := task("t", []string{"true"})
			tk.Spec.Image = "example.org/t/x:1"
			f(&tk)
			err := x.Start(t.Context(), tk)
			if err == nil {
				e, err := x.Wait(t.Context(), "t")
				fmt.Println(name, "=> ran", e, err)
				x.Remove(t.Context(), "t")
				fmt.Println("    ", logsOf(t, x, "t"))
				continue
			}
			fmt.Println(name, "=>", err)
		}
	}
}
