package mesosv1

import (
	"errors"
	"net/http"
	"testing"
)

func TestNegotiate(t *testing.T) {
	const refused = -1
	for _, c := range []struct {
		accept []string
		want   Encoding
	}{
		{nil, JSON},
		{[]string{""}, JSON},
		{[]string{"*/*"}, JSON},
		{[]string{"application/*"}, JSON},
		{[]string{"application/json"}, JSON},
		{[]string{"Application/JSON"}, JSON},
		{[]string{"application/json; charset=utf-8"}, JSON},
		{[]string{"application/x-protobuf"}, Protobuf},
		{[]string{"application/x-protobuf, application/json"}, JSON},
		{[]string{"application/x-protobuf;q=1, application/json;q=0.1"}, JSON},
		{[]string{"application/x-protobuf", "*/*;q=0.5"}, JSON},
		{[]string{"text/html,application/x-protobuf"}, Protobuf},
		{[]string{"application/json;q=0, */*"}, Protobuf},
		{[]string{"*/*, application/json;q=0"}, Protobuf},
		{[]string{"application/*;q=0, application/x-protobuf"}, Protobuf},
		{[]string{"*/*;q=0"}, refused},
		{[]string{"application/json;q=0"}, refused},
		{[]string{"application/json;q=some"}, refused},
		{[]string{"text/html"}, refused},
		{[]string{"text/*"}, refused},
		{[]string{"application/recordio"}, refused},
		{[]string{"json"}, refused},
		{[]string{";;;,/,"}, refused},
	} {
		got, err := Negotiate(c.accept)
		if c.want == refused {
			var r *Refusal
			if !errors.As(err, &r) || r.Status != http.StatusNotAcceptable {
				t.Errorf("Accept %q: got %v and %v, want 406", c.accept, got, err)
			}
		} else if err != nil || got != c.want {
			t.Errorf("Accept %q: got %s and %v, want %s", c.accept, got.ContentType(), err, c.want.ContentType())
		}
	}
}
