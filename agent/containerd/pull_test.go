package containerd

import (
	"crypto/rand"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/test/ctrd"
	testimage "github.com/tenderfleet/tender/test/image"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestPull(t *testing.T) {
	t.Parallel()
	pullScenarios(t, newWorld(t, ctrd.Debian(t)))
}

func pullScenarios(t *testing.T, w *world) {
	r := w.registry
	x := w.open(t)
	run := func(image string) executor.Task {
		t := task("pulled", sh("echo pulled"))
		t.Spec.Image = image
		return t
	}
	t.Run("one of many downloads", func(t *testing.T) {
		ref := r.push(t, "shared", true, testimage.Options{Env: []string{"A=1"}, Files: map[string]testimage.File{"/unique": {}}})
		var wg sync.WaitGroup
		for _, id := range []fleet.TaskID{"one", "two", "three", "four"} {
			wg.Go(func() {
				task := run(ref)
				task.ID = id
				wantPrinted(t, x, task, "pulled\n")
			})
		}
		wg.Wait()
		if n := r.fetched(); n != 2 {
			t.Errorf("%d blobs were fetched, want a layer and a configuration", n)
		}
		r.setRefuse(http.StatusInternalServerError) // it is here now
		defer r.setRefuse(0)
		wantPrinted(t, x, run(ref), "pulled\n")
	})
	t.Run("unpacked layers that were removed are made again", func(t *testing.T) {
		ref := r.push(t, "layers", false, testimage.Options{Env: []string{"A=2"}, Files: map[string]testimage.File{"/only/here": {}}})
		wantPrinted(t, x, run(ref), "pulled\n")
		img, err := x.image(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.snaps.Remove(t.Context(), img.parent); err != nil {
			t.Fatal(err)
		}
		wantPrinted(t, x, run(ref), "pulled\n")
	})
	t.Run("what it costs is counted", func(t *testing.T) {
		var fetched atomic.Int64
		x := w.open(t, func(c *Config) { c.Fetched = func(n int64) { fetched.Add(n) } })
		noise := make([]byte, 3<<20)
		if _, err := rand.Read(noise); err != nil { // it does not get smaller
			t.Fatal(err)
		}
		ref := r.push(t, "counted", true, testimage.Options{Env: []string{"A=5"}, Files: map[string]testimage.File{"/noise": {Data: noise}}})
		carried := r.meter()
		wantPrinted(t, x, run(ref), "pulled\n")
		eventually(t, "the counter says what the registry's sockets carried", func() bool { return fetched.Load() == carried.Load() })
		if n := fetched.Load(); n < 5<<20 || n > 6<<20 {
			t.Errorf("%d bytes were counted for an image of 3 MiB and a shell of 2", n)
		}
		once := fetched.Load()
		wantPrinted(t, x, run(ref), "pulled\n")
		if n := fetched.Load(); n != once {
			t.Errorf("another %d bytes were counted for an image that is here", n-once)
		}
		// What is not pulled in the end has cost something, too.
		if err := x.Start(t.Context(), run(r.host+"/nobody/counted:1")); err == nil {
			t.Error("an unknown image was started")
		}
		eventually(t, "the question for an image that is not there counts", func() bool {
			return fetched.Load() > once && fetched.Load() == carried.Load()
		})
	})
	for name, c := range map[string]struct {
		ref     string
		status  int
		invalid bool
		want    string
	}{
		"unknown image":   {r.host + "/nobody/has:1", 0, true, "its registry has no such image"},
		"foreign image":   {r.push(t, "foreign", false, testimage.Options{Arch: foreignArch, Env: []string{"A=3"}}), 0, true, "is for linux/s390x, this machine is linux/"},
		"foreign index":   {r.push(t, "foreign-index", true, testimage.Options{Arch: foreignArch, Env: []string{"A=4"}}), 0, true, "is not made for linux/"},
		"no access":       {r.host + "/private:1", http.StatusUnauthorized, true, "refuses access"},
		"registry is ill": {r.host + "/ill:1", http.StatusInternalServerError, false, "try again later"},
		"no registry":     {"127.0.0.1:1/nothing:1", 0, false, "the registry cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			r.setRefuse(c.status)
			defer r.setRefuse(0)
			err := x.Start(t.Context(), run(c.ref))
			if err == nil || errors.Is(err, executor.ErrInvalid) != c.invalid || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
			if errors.Is(err, executor.ErrUnavailable) {
				t.Errorf("the registry's trouble is taken for containerd's: %v", err)
			}
		})
	}
	w.checkClean(t)
}
