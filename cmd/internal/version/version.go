// Package version says what a program was built from.
package version

import "runtime/debug"

// version is set at link time: -ldflags "-X .../version.version=1.2.3".
var version string

// String returns the release, or the revision of a build without one.
func String() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
