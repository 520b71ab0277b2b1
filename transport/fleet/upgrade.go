package fleet

import (
	"errors"
	"fmt"
)

// RolloutID names one rollout of a version of the agent.
type RolloutID string

// Upgrade is what a machine is to run instead of the agent that it runs. The
// zero value asks for nothing.
type Upgrade struct {
	Rollout RolloutID
	// Version is that of the agent, as it tells it in its Hello.
	Version string
	// Packages has one for each architecture, at most MaxPackages.
	Packages []Package
}

// Package is a Debian package of tender-agent, known by its content.
type Package struct {
	Arch   string // Debian's name: "amd64", "arm64"
	SHA256 string // of the file, in hex
	Size   int64  // bytes
	// Signature is minisign's, whole: what its file holds. Its key was pinned
	// when the machine joined.
	Signature string
}

// Bounds of what is installed: a package of tender-agent has some 15 MB, a
// signature file 0.3 kB.
const (
	MaxPackages    = 8
	MaxPackageSize = 256 << 20
	MaxSignature   = 4 << 10
)

// States of an upgrade on a machine.
const (
	UpgradeFetching   = "fetching"    // the package is on its way
	UpgradeWaiting    = "waiting"     // for quiet hours or the budget of the link
	UpgradeInstalling = "installing"  // verified, and handed to the machine
	UpgradeTrial      = "trial"       // it runs, and has not passed its gate
	UpgradeDone       = "done"        // it passed
	UpgradeRolledBack = "rolled back" // it failed, and the previous one runs
	UpgradeRefused    = "refused"     // not installed: Text says why
)

// UpgradeStatus is how far a machine is with an upgrade, and how the last one
// ended. The zero value: nothing to tell.
type UpgradeStatus struct {
	Rollout RolloutID // empty: by the machine's own package manager
	Version string    // the one to be, or that failed
	State   string
	Text    string // for people
}

// ErrPackage is the kind of every error about a package's description.
var ErrPackage = errors.New("invalid package")

// Check reports what is wrong with the description.
func (p Package) Check() error {
	switch {
	case p.Arch == "" || len(p.Arch) > 32:
		return fmt.Errorf("%w: its architecture is %.40q", ErrPackage, p.Arch)
	case !isDigest(p.SHA256):
		return fmt.Errorf("%w: %.80q is no SHA-256 in hex", ErrPackage, p.SHA256)
	case p.Size <= 0 || p.Size > MaxPackageSize:
		return fmt.Errorf("%w: it has %d bytes, not 1 to %d", ErrPackage, p.Size, MaxPackageSize)
	case p.Signature == "" || len(p.Signature) > MaxSignature:
		return fmt.Errorf("%w: its signature has %d bytes, not 1 to %d", ErrPackage, len(p.Signature), MaxSignature)
	}
	return nil
}

func isDigest(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
