package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
)

func badRequest(format string, args ...any) error {
	return client.NewProblem(client.CodeBadRequest, "", format, args...)
}

// decode reads a JSON document strictly: an unknown field is a typing error
// that would otherwise go unnoticed.
func decode[T any](data []byte) (T, error) {
	var v T
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, badRequest("the document cannot be read: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return v, badRequest("something follows the document")
	}
	return v, nil
}

// body reads and decodes a request's document. No body at all is an empty
// document when optional.
func body[T any](w http.ResponseWriter, r *http.Request, optional bool) (T, error) {
	var zero T
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTime)) // unsupported only in tests
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = rc.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return zero, client.NewProblem(client.CodeTooLarge, "", "the document is larger than %d bytes", maxBody)
	case err != nil:
		return zero, badRequest("the document did not arrive whole")
	case optional && len(bytes.TrimSpace(data)) == 0:
		return zero, nil
	}
	return decode[T](data)
}

// answer writes a document.
func answer(w http.ResponseWriter, status int, doc any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(doc) // the asker is gone: nobody to tell
	return nil
}

// params reads a query of known names and keeps the first error.
type params struct {
	values url.Values
	err    error
}

func readParams(r *http.Request, known ...string) *params {
	p := &params{values: r.URL.Query()}
	for name := range p.values {
		if !slices.Contains(known, name) {
			p.err = badRequest("unknown parameter %.40q; known are: %s", name, strings.Join(known, ", "))
		}
	}
	return p
}

func (p *params) text(name string) string { return p.values.Get(name) }

func (p *params) boolean(name string, absent bool) bool {
	s := p.values.Get(name)
	if s == "" {
		return absent
	}
	v, err := strconv.ParseBool(s)
	if err != nil {
		p.err = badRequest("parameter %s=%.40q: write true or false", name, s)
	}
	return v
}

func (p *params) number(name string, absent, low, high int) int {
	s := p.values.Get(name)
	if s == "" {
		return absent
	}
	v, err := strconv.Atoi(s)
	if err != nil || v < low || v > high {
		p.err = badRequest("parameter %s=%.40q: write a number from %d to %d", name, s, low, high)
	}
	return v
}

func (p *params) duration(name string, high time.Duration) time.Duration {
	s := p.values.Get(name)
	if s == "" {
		return 0
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		p.err = badRequest("parameter %s=%.40q: write a duration such as 30s", name, s)
	}
	return min(v, high)
}
