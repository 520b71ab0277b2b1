package upgrade_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/agent/upgrade"
	"github.com/tenderfleet/tender/transport/fleet"
)

var (
	now  = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	pkg  = fleet.Package{Arch: "amd64", SHA256: strings.Repeat("a1", 32), Size: 1000, Signature: "s"}
	want = fleet.Upgrade{Rollout: "r1", Version: "v2", Packages: []fleet.Package{{Arch: "arm64"}, pkg}}
)

func TestDecide(t *testing.T) {
	asked := upgrade.Request{Rollout: "r1", Version: "v2", Package: pkg}
	done := upgrade.Answer{Rollout: "r1", Version: "v2", SHA256: pkg.SHA256, Installed: true}
	for name, tc := range map[string]struct {
		change func(*upgrade.Facts)
		do     upgrade.Action
		offset int64
		state  string
		text   string
	}{
		"nothing wanted":              {func(f *upgrade.Facts) { f.Want = fleet.Upgrade{} }, upgrade.Nothing, 0, "", ""},
		"begins":                      {func(*upgrade.Facts) {}, upgrade.Fetch, 0, fleet.UpgradeFetching, "0 %"},
		"goes on at the byte":         {func(f *upgrade.Facts) { f.File.Size = 777 }, upgrade.Fetch, 777, fleet.UpgradeFetching, "70 %"},
		"too much is here":            {func(f *upgrade.Facts) { f.File.Size = 1001 }, upgrade.Discard, 0, fleet.UpgradeFetching, ""},
		"cut off":                     {func(f *upgrade.Facts) { f.Connected = false; f.File.Size = 500 }, upgrade.Nothing, 500, fleet.UpgradeFetching, "50 %"},
		"over budget":                 {func(f *upgrade.Facts) { f.Held = "free again on 1 January" }, upgrade.Nothing, 0, fleet.UpgradeWaiting, "free again on 1 January"},
		"over budget, and it is here": {func(f *upgrade.Facts) { f.Held, f.File.Size = "no", 1000 }, upgrade.Verify, 1000, fleet.UpgradeFetching, ""},
		"a full disk":                 {func(f *upgrade.Facts) { f.Free = 100 }, upgrade.Nothing, 0, fleet.UpgradeWaiting, "needs 1 MB of disk"},
		"failed just now":             {func(f *upgrade.Facts) { f.Failed, f.Retry = "reset", now.Add(time.Second) }, upgrade.Nothing, 0, fleet.UpgradeFetching, "reset"},
		"failed a while ago":          {func(f *upgrade.Facts) { f.Failed, f.Retry = "reset", now }, upgrade.Fetch, 0, fleet.UpgradeFetching, "0 %"},
		"whole":                       {func(f *upgrade.Facts) { f.File.Size = 1000 }, upgrade.Verify, 1000, fleet.UpgradeFetching, "100 %"},
		"verified":                    {func(f *upgrade.Facts) { f.File = upgrade.File{Size: 1000, Verified: true} }, upgrade.HandOver, 1000, fleet.UpgradeInstalling, ""},
		"forged":                      {func(f *upgrade.Facts) { f.File = upgrade.File{Size: 1000, Forged: "forged"} }, upgrade.Nothing, 0, fleet.UpgradeRefused, "forged"},
		"wrong twice":                 {func(f *upgrade.Facts) { f.File.Wrong = 2 }, upgrade.Fetch, 0, fleet.UpgradeFetching, ""},
		"wrong thrice":                {func(f *upgrade.Facts) { f.File.Wrong = 3 }, upgrade.Nothing, 0, fleet.UpgradeRefused, "3 times"},
		"no key":                      {func(f *upgrade.Facts) { f.Unfit = "put the public key there" }, upgrade.Nothing, 0, fleet.UpgradeRefused, "put the public key there"},
		"not for this machine":        {func(f *upgrade.Facts) { f.Arch = "riscv64" }, upgrade.Nothing, 0, fleet.UpgradeRefused, "no package for riscv64, only for: arm64, amd64"},
		"asked": {func(f *upgrade.Facts) {
			f.Asked, f.AskedAt, f.File.Verified = asked, now, true
		}, upgrade.Nothing, 0, fleet.UpgradeInstalling, ""},
		"asked long ago": {func(f *upgrade.Facts) {
			f.Asked, f.AskedAt = asked, now.Add(-time.Hour)
		}, upgrade.Nothing, 0, fleet.UpgradeInstalling, "systemctl status tender-agent-install"},
		"asked, and taken back too late": {func(f *upgrade.Facts) {
			f.Asked, f.Want = asked, fleet.Upgrade{}
		}, upgrade.Nothing, 0, fleet.UpgradeInstalling, ""},
		"refused by root": {func(f *upgrade.Facts) {
			f.Answer = done
			f.Answer.Installed, f.Answer.Text = false, "another key"
		}, upgrade.Nothing, 0, fleet.UpgradeRefused, "another key"},
		"refused, and another rollout": {func(f *upgrade.Facts) {
			f.Answer = done
			f.Answer.Installed, f.Answer.Rollout = false, "r0"
		}, upgrade.Fetch, 0, fleet.UpgradeFetching, ""},
		"refused, and another package": {func(f *upgrade.Facts) {
			f.Answer = done
			f.Answer.Installed, f.Answer.SHA256 = false, "b"
		}, upgrade.Fetch, 0, fleet.UpgradeFetching, ""},
		"installed, not restarted": {func(f *upgrade.Facts) { f.Answer = done }, upgrade.Nothing, 0, fleet.UpgradeInstalling, "systemctl restart tender-agent"},
		"runs on trial": {func(f *upgrade.Facts) {
			f.Version, f.Answer, f.Local = "v2", done, fleet.UpgradeStatus{Version: "v2", State: fleet.UpgradeTrial}
		}, upgrade.Nothing, 0, fleet.UpgradeTrial, ""},
		"runs before root has answered": {func(f *upgrade.Facts) {
			f.Version, f.Asked = "v2", asked
		}, upgrade.Nothing, 0, fleet.UpgradeDone, ""},
		"runs": {func(f *upgrade.Facts) { f.Version = "v2" }, upgrade.Nothing, 0, fleet.UpgradeDone, ""},
		"rolled back": {func(f *upgrade.Facts) {
			f.Answer, f.Local = done, fleet.UpgradeStatus{Version: "v2", State: fleet.UpgradeRolledBack, Text: "exited at once"}
		}, upgrade.Nothing, 0, fleet.UpgradeRolledBack, "exited at once"},
		"rolled back before, and asked anew": {func(f *upgrade.Facts) {
			f.Answer, f.Local = done, fleet.UpgradeStatus{Version: "v2", State: fleet.UpgradeRolledBack}
			f.Want.Rollout = "r2"
		}, upgrade.Fetch, 0, fleet.UpgradeFetching, ""},
		"by the machine's own package manager": {func(f *upgrade.Facts) {
			f.Want, f.Local = fleet.Upgrade{}, fleet.UpgradeStatus{Version: "v3", State: fleet.UpgradeRolledBack, Text: "x"}
		}, upgrade.Nothing, 0, fleet.UpgradeRolledBack, "x"},
	} {
		f := upgrade.Facts{Now: now, Want: want, Version: "v1", Arch: "amd64", Connected: true, Free: 1 << 30}
		tc.change(&f)
		got := upgrade.Decide(f)
		if got.Do != tc.do || got.Offset != tc.offset || got.Status.State != tc.state || !strings.Contains(got.Status.Text, tc.text) {
			t.Errorf("%s: %+v, want action %d from %d, %s: %s", name, got, tc.do, tc.offset, tc.state, tc.text)
		}
		if got.Do == upgrade.Nothing && got.Again.IsZero() && (tc.state != fleet.UpgradeFetching || f.Connected) {
			t.Errorf("%s: it waits, and nobody would wake it", name)
		}
	}
	f := upgrade.Facts{
		Now: now, Version: "v1", Answer: done, Local: fleet.UpgradeStatus{Version: "v2", State: fleet.UpgradeRolledBack},
	}
	if got := upgrade.Decide(f).Status.Rollout; got != "r1" {
		t.Errorf("what was rolled back is told as of rollout %q", got)
	}
}

// world is a machine, its link and its disk: the file is sound or not.
type world struct {
	f     upgrade.Facts
	sound bool // what of the file is here is what was signed
	lies  int  // pieces that the link will still forge
	boots int
}

// step does what is decided, as a shell does.
func (w *world) step(t *rapid.T) upgrade.Plan {
	w.f.Now = w.f.Now.Add(time.Minute)
	plan := upgrade.Decide(w.f)
	p := plan.Package
	switch plan.Do {
	case upgrade.Fetch:
		if plan.Offset != w.f.File.Size || plan.Offset >= p.Size || !w.f.Connected || w.f.Held != "" {
			t.Fatalf("fetches from %d with facts %+v", plan.Offset, w.f)
		}
		piece := min(rapid.Int64Range(1, 400).Draw(t, "piece"), p.Size-plan.Offset)
		if plan.Offset == 0 {
			w.sound = true
		}
		if w.lies > 0 {
			w.lies--
			w.sound = false
		}
		w.f.File.Size += piece
	case upgrade.Discard:
		w.f.File.Size = 0
	case upgrade.Verify:
		if w.f.File.Size != p.Size {
			t.Fatalf("verifies %d of %d bytes", w.f.File.Size, p.Size)
		}
		if w.f.File.Verified = w.sound; !w.sound {
			w.f.File.Wrong++
			w.f.File.Size = 0
		}
	case upgrade.HandOver:
		if !w.sound || w.f.File.Size != p.Size {
			t.Fatal("hands over what was not verified")
		}
		w.f.Asked = upgrade.Request{Rollout: plan.Status.Rollout, Version: plan.Status.Version, Package: p}
	case upgrade.Nothing:
		if w.f.Asked.Rollout != "" { // root's turn
			w.f.Answer = upgrade.Answer{Rollout: w.f.Asked.Rollout, Version: w.f.Asked.Version, SHA256: w.f.Asked.Package.SHA256, Installed: true}
			w.f.Version, w.f.Asked = w.f.Asked.Version, upgrade.Request{}
			w.boots++
		}
	}
	return plan
}

// Whatever happens on the way, nothing unverified is handed over, and once the
// world is kind, what is wanted runs.
func TestWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{f: upgrade.Facts{Now: now, Want: want, Version: "v1", Arch: "amd64", Connected: true, Free: 1 << 30}, sound: true}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"on", "on", "on", "cut", "link", "hold", "free", "tear", "restart", "back", "lie", "full"}).Draw(t, "event") {
			case "cut":
				w.f.Connected = false
			case "link":
				w.f.Connected = true
			case "hold":
				w.f.Held = "quiet hours"
			case "free":
				w.f.Held, w.f.Free = "", 1<<30
			case "full":
				w.f.Free = 0
			case "tear": // a power loss: the size is there, the bytes are not
				w.sound = w.f.File.Size == 0
				w.f.File.Verified = false
			case "restart":
				w.f.File.Verified, w.f.File.Wrong = false, 0
			case "back":
				w.f.Want = fleet.Upgrade{}
			case "lie":
				w.lies = 1
			}
			w.step(t)
			if w.f.Want.Rollout == "" {
				w.f.Want = want
			}
		}
		w.f.Connected, w.f.Held, w.f.Free, w.lies, w.f.File.Wrong = true, "", 1<<30, 0, 0
		for range 5000 {
			if plan := w.step(t); plan.Status.State == fleet.UpgradeDone {
				if w.boots != 1 {
					t.Fatalf("installed %d times", w.boots)
				}
				return
			}
		}
		t.Fatalf("it does not come to its end: %+v", w.f)
	})
}
