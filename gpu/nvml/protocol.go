package nvml

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	cdi "tags.cncf.io/container-device-interface/specs-go"

	"github.com/tenderfleet/tender/gpu"
)

// The two ends are always the same program, so the protocol has no version. It
// is lines of JSON: a request, and its reply with the same ID; a line without
// an ID is an event. Yet the decoder trusts nothing: what it reads was made
// from what a driver said.
const (
	maxLine    = 1 << 20 // one line, either way
	maxDevices = 256     // cards and slices of one machine
	maxText    = 1024    // any one string in an inventory
)

type op string

const (
	opOpen      op = "open"
	opInventory op = "inventory"
	opReadings  op = "readings"
	opCDI       op = "cdi"
)

type request struct {
	ID   uint64
	Op   op
	Open *openArgs  `json:",omitempty"`
	GPUs []gpu.UUID `json:",omitempty"`
}

type openArgs struct{ Library, DriverRoot, DevRoot string }

// reply answers one request, or carries an event (ID zero).
type reply struct {
	ID    uint64
	Error string `json:",omitempty"`
	// Reason says why there is no driver to speak of: an answer, not an error.
	Reason    string           `json:",omitempty"`
	Inventory *inventory       `json:",omitempty"`
	Readings  []gpu.Reading    `json:",omitempty"`
	Spec      *cdi.Spec        `json:",omitempty"`
	Minors    map[gpu.UUID]int `json:",omitempty"`
	Event     *event           `json:",omitempty"`
}

// inventory is what the driver says at one moment. The parent makes health out
// of it, because it remembers and the child does not.
type inventory struct {
	Devices []device
	// Parents are cards in MIG mode, which are not given away themselves.
	Parents []device `json:",omitempty"`
	// Silent says of each listed card that did not even tell its UUID, why.
	Silent []string `json:",omitempty"`
}

// device is one card or slice and its raw condition.
type device struct {
	gpu.Device
	// Instance is the slice's GPU instance, for events that name one.
	GI, CI uint32
	// Lost is the driver's text when the device does not answer.
	Lost string `json:",omitempty"`
	// Recovery is the driver's recovery action, -1 where it does not tell.
	Recovery                int
	RowsPending, RowsFailed bool `json:",omitempty"`
}

// event is an XID, or an error of the wait for events (Error, no UUID).
type event struct {
	UUID   gpu.UUID `json:",omitempty"`
	XID    uint64   `json:",omitempty"`
	GI, CI uint32
	Error  string `json:",omitempty"`
}

// noInstance stands in GI and CI of an event that concerns a whole card.
const noInstance = 0xFFFFFFFF

// uuidShape also keeps out names with a meaning of their own in CDI, like "all".
var uuidShape = regexp.MustCompile(`^(GPU|MIG)-[0-9A-Za-z-]{1,80}$`)

func checkUUID(u gpu.UUID) error {
	if !uuidShape.MatchString(string(u)) {
		return fmt.Errorf("not a GPU's UUID: %.100q", string(u))
	}
	return nil
}

// readLine returns the next line, or io.EOF. The line is valid until the next
// call.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("line over %d bytes", maxLine)
	case err == io.EOF && len(line) > 0:
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	}
	return line, nil
}

// decodeReply decodes and checks one line from the child.
func decodeReply(line []byte) (reply, error) {
	var r reply
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return reply{}, fmt.Errorf("decode a reply of the probe: %w", err)
	}
	if dec.More() {
		return reply{}, errors.New("decode a reply of the probe: more than one value in a line")
	}
	if err := r.check(); err != nil {
		return reply{}, fmt.Errorf("decode a reply of the probe: %w", err)
	}
	return r, nil
}

func (r *reply) check() error {
	if (r.ID == 0) != (r.Event != nil) {
		return errors.New("a reply needs an ID, and an event has none")
	}
	if e := r.Event; e != nil && e.Error == "" {
		if err := checkUUID(e.UUID); err != nil {
			return err
		}
	}
	if len(r.Readings) > maxDevices || len(r.Minors) > maxDevices {
		return fmt.Errorf("over %d devices", maxDevices)
	}
	for _, x := range r.Readings {
		if err := checkUUID(x.UUID); err != nil {
			return err
		}
	}
	for u, n := range r.Minors {
		if err := checkUUID(u); err != nil {
			return err
		}
		if n < 0 || n > 0xFFFFF {
			return fmt.Errorf("minor number %d", n)
		}
	}
	return r.Inventory.check()
}

func (i *inventory) check() error {
	if i == nil {
		return nil
	}
	if len(i.Devices)+len(i.Parents)+len(i.Silent) > maxDevices {
		return fmt.Errorf("over %d devices", maxDevices)
	}
	seen := make(map[gpu.UUID]bool)
	for _, list := range [][]device{i.Devices, i.Parents} {
		for _, d := range list {
			if err := d.check(); err != nil {
				return err
			}
			if seen[d.UUID] {
				return fmt.Errorf("device %s is listed twice", d.UUID)
			}
			seen[d.UUID] = true
		}
	}
	return nil
}

func (d *device) check() error {
	if err := checkUUID(d.UUID); err != nil {
		return err
	}
	if d.Parent != "" {
		if err := checkUUID(d.Parent); err != nil {
			return err
		}
	}
	for _, s := range []string{d.Model, d.Driver, d.Profile, d.Reason, d.Lost} {
		if len(s) > maxText {
			return fmt.Errorf("device %s: a text over %d bytes", d.UUID, maxText)
		}
	}
	if d.MemoryMB < 0 || d.Health != gpu.HealthUnknown {
		return fmt.Errorf("device %s: negative memory, or health that only the parent may judge", d.UUID)
	}
	return nil
}
