package upgrade

import (
	"fmt"
	"slices"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Facts are all that a decision depends on.
type Facts struct {
	Now time.Time
	// Want is what the control plane has said last.
	Want fleet.Upgrade
	// Version and Arch are those of the agent that runs.
	Version, Arch string
	// Connected: there is a session to fetch through.
	Connected bool
	// Held is why the link must carry no packages now, "" when it may.
	Held string
	// Unfit is why this machine installs nothing that it is sent, or not what has
	// this signature; "" when it does.
	Unfit string
	// File is what is here of the wanted package.
	File File
	// Free is the space on the disk that packages lie on, in bytes.
	Free int64
	// Failed is what went wrong last, and Retry when it may be tried again.
	Failed string
	Retry  time.Time
	// Asked is the request that the machine has not answered yet, and AskedAt its
	// time; Answer is its last answer.
	Asked   Request
	AskedAt time.Time
	Answer  Answer
	// Local is what the machine's own watch over new versions says of them.
	Local fleet.UpgradeStatus
}

// File is a package on this machine's disk.
type File struct {
	Size     int64 // bytes of it that are here; 0 is none
	Verified bool  // its digest and its signature are those wanted
	// Wrong counts how often the whole of it came and had another digest; Forged
	// is what is wrong with its signature, "" when nothing.
	Wrong  int
	Forged string
}

// Request asks the machine to install a package. The zero value asks nothing.
type Request struct {
	Rollout fleet.RolloutID
	Version string
	Package fleet.Package
}

// Answer is how a request ended. The zero value is no answer.
type Answer struct {
	Rollout   fleet.RolloutID
	Version   string
	SHA256    string
	Installed bool   // else it was refused
	Text      string // why
}

// Action is what is to be done now.
type Action int

// The actions. The caller carries out one, then asks again.
const (
	Nothing  Action = iota
	Fetch           // Package from Offset on
	Discard         // what is on the disk is none of Package
	Verify          // the file of Package is complete
	HandOver        // ask the machine to install Package
)

// Plan is a decision.
type Plan struct {
	Do      Action
	Package fleet.Package
	Offset  int64
	Status  fleet.UpgradeStatus
	// Again is when to look again though nothing has changed; zero is never.
	Again time.Time
}

const (
	// poll is how often facts are looked at that nobody announces: the machine's
	// answer, the link's hours, the disk.
	poll     = 2 * time.Second
	slowPoll = 30 * time.Second
	heldPoll = 5 * time.Minute
	// patience is how long a request may lie before somebody should look.
	patience = 5 * time.Minute
	// maxWrong is how many whole packages may come that are not what was asked
	// for, before the link is worth more than another try.
	maxWrong = 3
	// unpacked is how much space the package needs once it is here, in its own
	// sizes: root's copy, and what dpkg unpacks beside what is in use.
	unpacked = 6
)

// Decide says what to do now.
func Decide(f Facts) Plan {
	if f.Want.Rollout == "" {
		return Plan{Status: f.idle(), Again: f.Now.Add(f.watched())}
	}
	if f.Want.Version == f.Version {
		return f.arrived()
	}
	i := slices.IndexFunc(f.Want.Packages, func(p fleet.Package) bool { return p.Arch == f.Arch })
	if i < 0 {
		return f.refuse(fmt.Sprintf("the rollout has no package for %s, only for: %s; add one with: tender upgrade add", f.Arch, archs(f.Want.Packages)))
	}
	p := f.Want.Packages[i]
	if f.Asked.Rollout != "" {
		return f.asked()
	}
	if f.Answer.Rollout == f.Want.Rollout && f.Answer.SHA256 == p.SHA256 {
		return f.answered()
	}
	if f.Unfit != "" {
		return f.refuse(f.Unfit)
	}
	if f.File.Forged != "" {
		return f.refuse(f.File.Forged)
	}
	if f.File.Wrong >= maxWrong {
		return f.refuse(fmt.Sprintf("%d times the package that came was not the one of the rollout; add it again with: tender upgrade add", f.File.Wrong))
	}
	return f.get(p)
}

// get brings the package here, and hands it over.
func (f Facts) get(p fleet.Package) Plan {
	plan := Plan{Package: p, Offset: f.File.Size}
	switch rest := p.Size - f.File.Size; {
	case f.Now.Before(f.Retry):
		plan.Status, plan.Again = f.status(fleet.UpgradeFetching, f.Failed), f.Retry
	case rest < 0:
		plan.Do, plan.Offset = Discard, 0
		plan.Status = f.status(fleet.UpgradeFetching, progress(0, 1))
	case rest == 0 && f.File.Verified:
		plan.Do, plan.Status = HandOver, f.status(fleet.UpgradeInstalling, "")
	case rest == 0:
		plan.Do, plan.Status = Verify, f.status(fleet.UpgradeFetching, progress(1, 1))
	case f.Free < rest+unpacked*p.Size:
		plan.Status = f.status(fleet.UpgradeWaiting, fmt.Sprintf("the package needs %d MB of disk to be installed, %d MB are free", mb(rest+unpacked*p.Size), f.Free>>20))
		plan.Again = f.Now.Add(slowPoll)
	case f.Held != "":
		plan.Status, plan.Again = f.status(fleet.UpgradeWaiting, f.Held), f.Now.Add(heldPoll)
	case !f.Connected:
		plan.Status = f.status(fleet.UpgradeFetching, progress(f.File.Size, p.Size))
	default:
		plan.Do, plan.Status = Fetch, f.status(fleet.UpgradeFetching, progress(f.File.Size, p.Size))
	}
	return plan
}

// asked waits for the machine. What it is about to do cannot be taken back.
func (f Facts) asked() Plan {
	text := ""
	if f.Now.Sub(f.AskedAt) > patience {
		text = "the machine has not installed it yet; on it, look at: systemctl status tender-agent-install.path tender-agent-install.service"
	}
	return Plan{Status: f.status(fleet.UpgradeInstalling, text), Again: f.Now.Add(poll)}
}

// answered is after the machine's answer, while another version runs than the
// one that is wanted.
func (f Facts) answered() Plan {
	switch {
	case !f.Answer.Installed:
		return f.refuse(f.Answer.Text)
	case f.Local.State == fleet.UpgradeRolledBack && f.Local.Version == f.Want.Version:
		return Plan{Status: f.status(fleet.UpgradeRolledBack, f.Local.Text), Again: f.Now.Add(slowPoll)}
	case f.Local.State == fleet.UpgradeTrial && f.Local.Text != "": // and why it does not run
		return Plan{Status: f.status(fleet.UpgradeInstalling, f.Local.Text), Again: f.Now.Add(poll)}
	}
	return Plan{
		Status: f.status(fleet.UpgradeInstalling, "it is installed, and the agent of before still runs; if that lasts, on the machine: systemctl restart tender-agent"),
		Again:  f.Now.Add(poll),
	}
}

// arrived: what is wanted runs.
func (f Facts) arrived() Plan {
	if f.Local.State == fleet.UpgradeTrial && f.Local.Version == f.Version {
		return Plan{Status: f.status(fleet.UpgradeTrial, f.Local.Text), Again: f.Now.Add(poll)}
	}
	return Plan{Status: f.status(fleet.UpgradeDone, ""), Again: f.Now.Add(slowPoll)}
}

// idle is what there is to tell when nothing is wanted: what cannot be taken
// back any more, and what the machine did by itself.
func (f Facts) idle() fleet.UpgradeStatus {
	if f.Asked.Rollout != "" && f.Asked.Version != f.Version {
		return fleet.UpgradeStatus{Rollout: f.Asked.Rollout, Version: f.Asked.Version, State: fleet.UpgradeInstalling}
	}
	status := f.Local
	switch {
	case status.Rollout != "" || status.State == "":
	case f.Asked.Version == status.Version:
		status.Rollout = f.Asked.Rollout
	case f.Answer.Installed && f.Answer.Version == status.Version:
		status.Rollout = f.Answer.Rollout
	}
	return status
}

// watched is how soon what nobody announces is worth a look.
func (f Facts) watched() time.Duration {
	if f.Asked.Rollout != "" || f.Local.State == fleet.UpgradeTrial {
		return poll
	}
	return slowPoll
}

func (f Facts) refuse(text string) Plan {
	return Plan{Status: f.status(fleet.UpgradeRefused, text), Again: f.Now.Add(slowPoll)}
}

func (f Facts) status(state, text string) fleet.UpgradeStatus {
	return fleet.UpgradeStatus{Rollout: f.Want.Rollout, Version: f.Want.Version, State: state, Text: text}
}

// progress moves in tenths: each change is a message.
func progress(have, size int64) string {
	return fmt.Sprintf("%d %% of the package are here", have*10/size*10)
}

func mb(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

func archs(packages []fleet.Package) string {
	out := ""
	for i, p := range packages {
		if i > 0 {
			out += ", "
		}
		out += p.Arch
	}
	if out == "" {
		return "none"
	}
	return out
}
