package version

import (
	"runtime/debug"
	"testing"
)

func TestOf(t *testing.T) {
	checkout := func(modified string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.modified", Value: modified},
		}}
	}
	for _, tt := range []struct {
		name, linked    string
		build           *debug.BuildInfo
		version, commit string
	}{
		{"release", "v1.2.3", checkout("false"), "v1.2.3", "0123456789ab"},
		{"checkout", "", checkout("true"), "dev", "0123456789ab+changes"},
		{"go install", "", &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "v1.2.3", ""},
		{"nothing known", "", &debug.BuildInfo{}, "dev", ""},
	} {
		if i := of(tt.linked, tt.build); i.Version != tt.version || i.Commit != tt.commit || i.Go == "" {
			t.Errorf("%s: %+v", tt.name, i)
		}
	}
	if Get().Version == "" {
		t.Error("no version at all")
	}
}
