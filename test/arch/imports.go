package arch

import (
	"fmt"
	"slices"
	"strings"
)

// Directions finds imports inside the module that go the wrong way.
func Directions(m *Module) []string {
	var found []string
	for _, p := range m.Packages {
		i := slices.IndexFunc(directions, func(r direction) bool { return matches(p.Path, r.who...) })
		if i < 0 {
			found = append(found, p.Path+": no line in directions names it: say what it may import, and why")
			continue
		}
		r := directions[i]
		for f, path := range p.imports {
			switch {
			case !strings.HasPrefix(path, "."):
			case f.Test && !acrossFleet(p.Path, path):
			case !f.Test && isTestHelper(path) && !isTestHelper(p.Path):
				found = append(found, fmt.Sprintf("%s: imports %s: that is for tests", f.Path, path))
			case !matches(path, r.may...) && path != p.Path:
				found = append(found, fmt.Sprintf("%s: imports %s: %s", f.Path, path, r.why))
			}
		}
	}
	return found
}

// acrossFleet reports an import between agent and control plane, which tests
// may not have either: what needs both is in ./test.
func acrossFleet(from, to string) bool {
	return matches(from, "./agent/...") && matches(to, "./controlplane/...") ||
		matches(from, "./controlplane/...") && matches(to, "./agent/...")
}

// isTestHelper reports whether a package is there for tests: those under
// ./test, and suites like executortest beside what they test.
func isTestHelper(path string) bool {
	return matches(path, "./test/...") || strings.HasPrefix(path, "./") && strings.HasSuffix(path, "test")
}

// Owners finds imports from outside the module by others than their owners.
func Owners(m *Module) []string {
	var found []string
	for _, p := range m.Packages {
		for f, path := range p.imports {
			i := slices.IndexFunc(owners, func(o owner) bool { return matches(path, o.what...) })
			if i < 0 || matches(p.Path, owners[i].who...) {
				continue
			}
			if owners[i].tests && (f.Test || isTestHelper(p.Path)) {
				continue
			}
			found = append(found, fmt.Sprintf("%s: imports %s: %s", f.Path, path, owners[i].why))
		}
	}
	return found
}

// TestingInProduct finds files that are no tests and import testing.
func TestingInProduct(m *Module) []string {
	var found []string
	for _, p := range m.Packages {
		for f, path := range p.imports {
			if !f.Test && matches(path, "testing/...") && !isTestHelper(p.Path) {
				found = append(found, fmt.Sprintf("%s: imports %s: keep test code out of the programs", f.Path, path))
			}
		}
	}
	return found
}

// Links finds programs that are built from something that they must not hold.
func Links(m *Module) []string {
	var found []string
	for _, l := range links {
		p := m.find(l.who)
		if p == nil {
			found = append(found, l.who+": no such package")
			continue
		}
		for _, d := range p.Links {
			if matches(d, l.not...) {
				found = append(found, fmt.Sprintf("%s: links %s: %s", l.who, d, l.why))
			}
		}
	}
	return found
}

// Modules finds modules that go.mod requires directly beyond the limit.
func Modules(m *Module) []string {
	var counted []string
	for _, r := range m.Requires {
		companion := slices.ContainsFunc(companions, func(c companion) bool { return matches(r.Path, c.what) })
		if !r.Indirect && !companion {
			counted = append(counted, r.Path)
		}
	}
	if len(counted) <= maxModules {
		return nil
	}
	return []string{fmt.Sprintf("go.mod: %d direct modules, at most %d: do without one, or give a reason in companions: %s",
		len(counted), maxModules, strings.Join(counted, " "))}
}

// imports yields each file with each of its imports.
func (p Package) imports(yield func(File, string) bool) {
	for _, f := range p.Files {
		for _, path := range f.Imports {
			if !yield(f, path) {
				return
			}
		}
	}
}
