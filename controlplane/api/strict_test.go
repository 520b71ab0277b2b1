package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tenderfleet/tender/controlplane/api"
	"github.com/tenderfleet/tender/controlplane/api/apitest"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/registrar"
	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestSubmitIsStrict(t *testing.T) {
	f := apitest.New()
	h := api.Handler(f, f.Options())
	post := func(doc string) (*httptest.ResponseRecorder, client.Problem) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/tasks", strings.NewReader(doc)))
		var p client.Problem
		_ = json.Unmarshal(w.Body.Bytes(), &p)
		return w, p
	}
	for _, tt := range []struct {
		name, doc, detail string
		status            int
	}{
		{"not JSON", `{`, "the document cannot be read: unexpected EOF", 400},
		{"unknown field", `{"image":"i","cpu":1}`, `the document cannot be read: unknown field "cpu"`, 400},
		{"wrong type", `{"image":1}`, "the document cannot be read: cannot unmarshal number into Go struct field Submit.image of type string", 400},
		{"two documents", `{"image":"i"}{}`, "something follows the document", 400},
		{"too large", `{"image":"` + strings.Repeat("x", 1<<20) + `"}`, "the document is larger than 1048576 bytes", 413},
		{"no image", `{"cpus":1}`, "the task names no image; give one, such as docker.io/library/busybox:1.36", 422},
		{"fraction of a GPU", `{"image":"i","cpus":"1","gpus":"0.5"}`, fleet.GPUFractionText, 422},
		{"number that is a fraction of a GPU", `{"image":"i","gpus":1.5}`, fleet.GPUFractionText, 422},
		{"negative GPUs", `{"image":"i","gpus":-1}`, fleet.GPUFractionText, 422},
		{"cpus", `{"image":"i","cpus":"many"}`, `cpus: "many" is not a number of zero or more`, 422},
		{"exponent", `{"image":"i","cpus":1e3}`, `cpus: "1e3" is not a number of zero or more`, 422},
		{"mem", `{"image":"i","mem":"1X"}`, `mem: "1X" is not an amount of memory; write 512 (MiB), 512M, 2G or 1.5G`, 422},
		{"health check", `{"image":"i","cpus":1,"health_check":{"kind":"PING"}}`, `health check: kind "PING": use COMMAND, HTTP or TCP`, 422},
		{"check with a grace period", `{"image":"i","cpus":1,"check":{"kind":"TCP","port":1,"grace":"1s"}}`, "check: it only reports what it finds: accepted statuses, a number of failures and a grace period are for a health check", 422},
		{"limit", `{"image":"i","cpus":2,"cpu_limit":1}`, "cpu limit 1 is less than the 2 that the task asks for; a limit lets it take more, never less", 422},
		{"limit that is none", `{"image":"i","cpus":2,"mem_limit":"lots"}`, `mem_limit: "lots" is not an amount of memory; write 512 (MiB), 512M, 2G or 1.5G; or write unlimited`, 422},
		{"nothing", `{"image":"i"}`, "the task asks for no cpus, memory or gpus; ask for at least one of them", 422},
		{"role", `{"image":"i","cpus":1,"role":"A b"}`, `role "A b": use lower-case letters, digits, '-', '_' and '.', beginning with a letter or digit`, 422},
	} {
		w, p := post(tt.doc)
		if w.Code != tt.status || p.Detail != tt.detail || p.Title != http.StatusText(tt.status) {
			t.Errorf("%s: %d %q, want %d %q", tt.name, w.Code, p.Detail, tt.status, tt.detail)
		}
		if tt.status == 422 && (p.State != "TASK_ERROR" || p.Reason != "TASK_INVALID") {
			t.Errorf("%s: state %s, reason %s", tt.name, p.State, p.Reason)
		}
	}
	if f.Tasks() != 0 {
		t.Errorf("%d tasks were submitted", f.Tasks())
	}
	if w, _ := post(`{"image":"Registry.example/Über@sha256:00","cpus":0.5,"mem":"512"}`); w.Code != 422 {
		t.Errorf("image of other letters: %d", w.Code)
	}
	w, _ := post(`{"image":"registry.example:5000/team/Train.Model:v1","cpus":0.5,"mem":512,"gpus":"0"}`)
	if w.Code != 201 || w.Header().Get("Location") != "/v1/tasks/train.model-1" {
		t.Errorf("accepted: %d %s %s", w.Code, w.Header().Get("Location"), w.Body)
	}
}

func TestBadRequests(t *testing.T) {
	f := apitest.New()
	h := api.Handler(f, f.Options())
	for _, tt := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/v1/tasks?al=true", 400},
		{"GET", "/v1/tasks?all=perhaps", 400},
		{"GET", "/v1/tasks?limit=0", 400},
		{"GET", "/v1/tasks/t-1?wait=soon", 400},
		{"GET", "/v1/tasks/t-1", 404},
		{"GET", "/v1/tasks/t-1/logs?tail=-2", 400},
		{"GET", "/v2/tasks", 404},
		{"PUT", "/v1/tasks", 404},
		{"POST", "/v1/agents/Not-An-Id/revoke", 404},
		{"GET", "/healthz", 200},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.target, nil))
		if w.Code != tt.status {
			t.Errorf("%s %s: %d %s", tt.method, tt.target, w.Code, w.Body)
		}
	}
	r := httptest.NewRequest("POST", "/v1/tokens", nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusForbidden {
		t.Errorf("a page of another site: %d", w.Code)
	}
}

func TestFailuresOfTheReplica(t *testing.T) {
	f := apitest.New()
	h := api.Handler(f, f.Options())
	for _, tt := range []struct {
		err    error
		status int
		code   client.Code
	}{
		{&registrar.NotLeaderError{}, 503, client.CodeNoLeader},
		{fmt.Errorf("propose: %w", registrar.ErrTimeout), 504, client.CodeUnknown},
		{registrar.ErrClosed, 503, client.CodeNoLeader},
		{context.DeadlineExceeded, 504, client.CodeTimeout},
		{errors.New("disk full"), 500, client.CodeInternal},
		{client.NewProblem(client.CodeBusy, "", "too much to do"), 503, client.CodeBusy},
	} {
		f.Fail(tt.err)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/v1/agents", nil))
		var p client.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != tt.status || p.Code != tt.code || strings.Contains(p.Detail, "disk") {
			t.Errorf("%v: %d %+v, %v", tt.err, w.Code, p, err)
		}
	}
}

func FuzzSubmit(f *testing.F) {
	for _, doc := range []string{
		`{}`, `{"image":"docker.io/library/busybox:1.36","cpus":"0.5","mem":512,"gpus":"1","gpu_memory":"24G","labels":{"disk":"ssd"}}`,
		`{"image":"i","gpus":0.5}`, `{"image":"i","kill_grace":"10s","env":{"A":"b"},"command":["sh","-c","true"]}`,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		fl := apitest.New()
		h := api.Handler(fl, fl.Options())
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/tasks", bytes.NewReader(doc)))
		switch w.Code {
		case 201:
			var task client.Task
			if err := json.Unmarshal(w.Body.Bytes(), &task); err != nil || fleet.CheckID("task", task.ID) != nil || task.State != "TASK_STAGING" {
				t.Fatalf("accepted %q as %+v, %v", doc, task, err)
			}
		case 400, 413, 422:
			var p client.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Detail == "" {
				t.Fatalf("refused %q with %s", doc, w.Body)
			}
		default:
			t.Fatalf("%q: %d %s", doc, w.Code, w.Body)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add([]byte(`{"kind":"agent","site":"lab","labels":{"a":"b"},"uses":3,"ttl":"24h"}`))
	f.Add([]byte(`{"ttl":"-1s"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		fl := apitest.New()
		h := api.Handler(fl, fl.Options())
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/tokens", bytes.NewReader(doc)))
		switch w.Code {
		case 201:
			var tok client.Token
			if err := json.Unmarshal(w.Body.Bytes(), &tok); err != nil {
				t.Fatal(err)
			}
			if _, err := pki.ParseJoinLine(tok.Line); err != nil {
				t.Fatal(err)
			}
		case 400, 413, 422:
		default:
			t.Fatalf("%q: %d %s", doc, w.Code, w.Body)
		}
	})
}
