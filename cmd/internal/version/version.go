// Package version tells what a program was built from. A release sets the
// version when it links:
//
//	go build -ldflags "-X github.com/tenderfleet/tender/cmd/internal/version.version=v1.2.3" ./cmd/...
//
// Everything else comes from what the Go tool records in the program.
package version

import (
	"runtime"
	"runtime/debug"
)

// version is set by the linker and by nobody else.
var version string

// Info is what a program was built from.
type Info struct {
	Version string
	Commit  string // empty when built outside of a checkout
	Go      string
}

// Get returns what this program was built from.
func Get() Info {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = &debug.BuildInfo{}
	}
	return of(version, build)
}

func of(linked string, build *debug.BuildInfo) Info {
	i := Info{Version: linked, Go: runtime.Version()}
	modified := false
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Commit = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified && i.Commit != "" {
		i.Commit += "+changes"
	}
	if i.Version == "" {
		i.Version = build.Main.Version // of "go install ...@v1.2.3"
	}
	if i.Version == "" || i.Version == "(devel)" {
		i.Version = "dev"
	}
	return i
}
