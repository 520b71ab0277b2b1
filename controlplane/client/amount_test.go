package client_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/transport/fleet"
)

func TestParseMem(t *testing.T) {
	for text, want := range map[string]fleet.Scalar{
		"512": fleet.Whole(512), "512M": fleet.Whole(512), "512MiB": fleet.Whole(512), "0.5": 500,
		"2G": fleet.Whole(2048), "2g": fleet.Whole(2048), "2Gi": fleet.Whole(2048), "2GB": fleet.Whole(2048), "1.5G": fleet.Whole(1536),
		"1T": fleet.Whole(1 << 20), "0": 0,
	} {
		if got, err := client.ParseMem(text); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "G", "-1", "1X", "1 G", "512b", "512i", "1.0005G", "1e3", "999999999999T", "1GG", "G1"} {
		if got, err := client.ParseMem(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestAmountKeepsItsDigits(t *testing.T) {
	for in, out := range map[string]string{
		`0.1`: `0.1`, `"0.1"`: `0.1`, `2.50`: `2.5`, `"many"`: `"many"`, `1e3`: `"1e3"`, `-1`: `"-1"`, `"007"`: `7`,
	} {
		var a client.Amount
		if err := json.Unmarshal([]byte(in), &a); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got, err := json.Marshal(a); err != nil || string(got) != out {
			t.Errorf("%s became %s, %v, want %s", in, got, err, out)
		}
	}
	var a client.Amount
	for _, in := range []string{`true`, `{}`, `[1]`} {
		if json.Unmarshal([]byte(in), &a) == nil {
			t.Errorf("%s was read as %s", in, a)
		}
	}
}

func TestDuration(t *testing.T) {
	d := client.Duration(90 * time.Second)
	data, err := json.Marshal(d)
	if err != nil || string(data) != `"1m30s"` {
		t.Errorf("written as %s, %v", data, err)
	}
	var back client.Duration
	if err := json.Unmarshal(data, &back); err != nil || back != d {
		t.Errorf("read as %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`"soon"`), &back); err == nil || err.Error() != `"soon" is not a duration; write 10s, 5m or 1h30m` {
		t.Errorf("soon: %v", err)
	}
}
