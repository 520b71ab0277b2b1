package mesosv1

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// Refusal is the answer to a request that is not even looked at: an HTTP status
// and a text for whoever wrote the scheduler.
type Refusal struct {
	Status int
	Text   string
}

func (r *Refusal) Error() string { return r.Text }

// bodyEncoding is the encoding that a request's Content-Type names. As in Mesos
// it is one of two texts exactly; parameters such as a charset are refused.
func bodyEncoding(contentType string) (Encoding, error) {
	switch contentType {
	case JSON.ContentType():
		return JSON, nil
	case Protobuf.ContentType():
		return Protobuf, nil
	case "":
		return 0, &Refusal{
			http.StatusBadRequest,
			"the header Content-Type is missing: send application/json or application/x-protobuf",
		}
	}
	return 0, &Refusal{
		http.StatusUnsupportedMediaType,
		"Content-Type " + strconv.Quote(contentType[:min(len(contentType), 80)]) +
			" is not supported: send application/json or application/x-protobuf, without parameters",
	}
}

// Negotiate chooses the encoding of an answer from the values of the header
// Accept: JSON wherever that is acceptable, whatever the weights, and where
// nothing is said. Only SUBSCRIBE and RECONCILE_OPERATIONS have an answer. The error is a *Refusal with status 406.
func Negotiate(accept []string) (Encoding, error) {
	ranges := strings.Split(strings.Join(accept, ","), ",")
	if strings.Join(accept, "") == "" {
		return JSON, nil
	}
	for _, e := range []Encoding{JSON, Protobuf} {
		if acceptable(e.ContentType(), ranges) {
			return e, nil
		}
	}
	return 0, &Refusal{
		http.StatusNotAcceptable,
		"the header Accept allows neither application/json nor application/x-protobuf",
	}
}

// acceptable lets the most specific range that matches decide (RFC 9110,
// section 12.5.1).
func acceptable(mediaType string, ranges []string) bool {
	kind, _, _ := strings.Cut(mediaType, "/")
	best, ok := -1, false
	for _, r := range ranges {
		name, params, err := mime.ParseMediaType(r)
		if err != nil {
			continue
		}
		rank := map[string]int{"*/*": 0, kind + "/*": 1, mediaType: 2}
		if n, matches := rank[name]; matches && n > best {
			q, err := strconv.ParseFloat(params["q"], 64)
			best, ok = n, params["q"] == "" || err == nil && q > 0
		}
	}
	return ok
}
