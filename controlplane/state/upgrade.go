package state

import (
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Bounds of what the replicas keep for upgrades of agents. A version takes some
// 30 MB of each replica's disk.
const (
	MaxReleaseKeys = 8
	MaxVersions    = 8
	maxKeyText     = 128
)

// ReleaseKey is a public key that packages of tender-agent may be signed by.
// Agents pin those of the time when they join.
type ReleaseKey struct {
	ID      string // minisign's number of the key, 16 hex digits
	Key     string // minisign's text of it, one line of base64
	Comment string // for people
	Added   time.Time
}

// Package is one package of tender-agent. Its bytes are files beside the
// replicated state, of which each replica has a copy or fetches one.
type Package struct {
	fleet.Package
	Version string // as the agent in it tells it: "v0.2.0"
	Key     string // the ReleaseKey that signed it, by its ID
	Added   time.Time
}

type (
	// DropReleaseKey forgets a release key. Agents that have pinned it keep it.
	DropReleaseKey struct{ ID string }
	// DropPackages forgets the packages of a version.
	DropPackages struct{ Version string }
)

func (s *State) putReleaseKey(now time.Time, k *ReleaseKey) Result {
	switch old := s.ReleaseKeys[k.ID]; {
	case k.ID == "" || k.Key == "" || len(k.ID)+len(k.Key)+len(k.Comment) > 3*maxKeyText:
		return refuse(Invalid, "a release key without a number or a key, or with too long a comment")
	case old != nil && old.Key == k.Key:
		return Result{Duplicate: true}
	case old != nil:
		return refuse(Conflict, "another release key has the number %s; remove it first: tender upgrade key rm %s", k.ID, k.ID)
	case len(s.ReleaseKeys) >= MaxReleaseKeys:
		return refuse(Conflict, "there are %d release keys, which is the limit; remove one: tender upgrade key rm ID", len(s.ReleaseKeys))
	}
	c := *k
	c.Added = now
	s.ReleaseKeys[c.ID] = &c
	return Result{}
}

func (s *State) dropReleaseKey(c *DropReleaseKey) Result {
	if s.ReleaseKeys[c.ID] == nil {
		return refuse(NotFound, "no release key %.40s; list them with: tender upgrade key ls", c.ID)
	}
	for _, sum := range SortedKeys(s.Packages) {
		if p := s.Packages[sum]; p.Key == c.ID {
			return refuse(Conflict, "the package of %s for %s is signed by it; remove that first: tender upgrade rm %s", p.Version, p.Arch, p.Version)
		}
	}
	delete(s.ReleaseKeys, c.ID)
	return Result{}
}

func (s *State) putPackage(now time.Time, p *Package) Result {
	if err := p.Check(); err != nil {
		return refuse(Invalid, "%v", err)
	}
	if p.Version == "" || len(p.Version) > maxKeyText || s.ReleaseKeys[p.Key] == nil {
		return refuse(Invalid, "a package without a version, or signed by no release key of this fleet")
	}
	if s.Packages[p.SHA256] != nil {
		return Result{Duplicate: true}
	}
	versions, archs := map[string]bool{p.Version: true}, 1
	for _, sum := range SortedKeys(s.Packages) {
		old := s.Packages[sum]
		versions[old.Version] = true
		switch {
		case old.Version == p.Version && old.Arch == p.Arch:
			return refuse(Conflict, "another package of %s for %s was added; a version is one package for each architecture: give it another version, or: tender upgrade rm %s", p.Version, p.Arch, p.Version)
		case old.Version == p.Version:
			archs++
		}
	}
	switch {
	case len(versions) > MaxVersions:
		return refuse(Conflict, "packages of %d versions are kept, which is the limit; remove one: tender upgrade rm VERSION", MaxVersions)
	case archs > fleet.MaxPackages:
		return refuse(Conflict, "%s has packages for %d architectures, which is the limit", p.Version, fleet.MaxPackages)
	}
	c := *p
	c.Added = now
	s.Packages[c.SHA256] = &c
	return Result{}
}

func (s *State) dropPackages(c *DropPackages) Result {
	if r := s.Rollout; r.Active() && r.Version == c.Version {
		return refuse(Conflict, "version %s is being rolled out; end that first: tender upgrade abort", c.Version)
	}
	if len(s.PackagesOf(c.Version)) == 0 {
		return refuse(NotFound, "no package of version %.40s; list them with: tender upgrade ls", c.Version)
	}
	for _, p := range s.PackagesOf(c.Version) {
		delete(s.Packages, p.SHA256)
	}
	return Result{}
}

// PackagesOf lists the packages of a version, by architecture.
func (s *State) PackagesOf(version string) []fleet.Package {
	byArch := map[string]fleet.Package{}
	for _, p := range s.Packages {
		if p.Version == version {
			byArch[p.Arch] = p.Package
		}
	}
	var out []fleet.Package
	for _, arch := range SortedKeys(byArch) {
		out = append(out, byArch[arch])
	}
	return out
}

func (k *ReleaseKey) audit(Result) (action, target, detail string) {
	return "release-key.add", k.ID, k.Comment
}

func (c *DropReleaseKey) audit(Result) (action, target, detail string) {
	return "release-key.remove", c.ID, ""
}

func (p *Package) audit(Result) (action, target, detail string) {
	return "package.add", p.Version, p.Arch + ", sha256 " + p.SHA256
}

func (c *DropPackages) audit(Result) (action, target, detail string) {
	return "package.remove", c.Version, ""
}
