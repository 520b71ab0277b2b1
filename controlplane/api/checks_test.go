package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestWhatATaskSaysOfItsOwnLife(t *testing.T) {
	f := apitest.New()
	h := api.Handler(f, f.Options())
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/tasks", strings.NewReader(`{
		"name": "web", "image": "i", "cpus": 1, "mem": "1G", "cpu_limit": "unlimited", "mem_limit": "2G", "max_time": "90m",
		"health_check": {"kind": "http", "port": 80, "delay": "0s", "grace": "1m", "statuses": [204]},
		"check": {"kind": "COMMAND", "command": ["stat", "/data"], "env": {"SECRET": "hunter2"}, "timeout": "1s"}
	}`)))
	if w.Code != http.StatusCreated {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var spec fleet.TaskSpec
	if err := f.Read(t.Context(), func(st *state.State) { spec = st.Tasks["web-1"].Spec }); err != nil {
		t.Fatal(err)
	}
	health := fleet.NewHealthCheck(fleet.CheckHTTP)
	health.Port, health.Delay, health.Grace, health.Statuses = 80, 0, time.Minute, []int{204}
	check := fleet.NewCheck(fleet.CheckCommand)
	check.Command, check.Env, check.Timeout = []string{"stat", "/data"}, map[string]string{"SECRET": "hunter2"}, time.Second
	want, _ := json.Marshal(fleet.TaskSpec{
		Name: "web", Image: "i", Health: &health, Check: &check, MaxCompletion: 90 * time.Minute,
		Limits: fleet.Limits{CPUs: fleet.Unlimited, Mem: fleet.Whole(2048)},
	})
	if got, _ := json.Marshal(spec); string(got) != string(want) {
		t.Errorf("the task is\n%s, want\n%s", got, want)
	}
	var got, doc map[string]any
	if err := json.Unmarshal([]byte(`{
		"health_check": {"kind": "HTTP", "port": 80, "statuses": [204], "delay": "0s", "interval": "10s", "timeout": "20s", "failures": 3, "grace": "1m0s"},
		"check": {"kind": "COMMAND", "command": ["stat", "/data"], "delay": "15s", "interval": "10s", "timeout": "1s"},
		"max_time": "1h30m0s", "cpu_limit": "unlimited", "mem_limit": 2048
	}`), &doc); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for k, v := range doc {
		if a, b := jsonOf(got[k]), jsonOf(v); a != b {
			t.Errorf("%s is shown as %s, want %s", k, a, b)
		}
	}
	if strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("a secret is shown: %s", w.Body)
	}
}

func jsonOf(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
