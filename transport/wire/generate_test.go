package wire

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/tenderfleet/tender/gpu"
	"github.com/tenderfleet/tender/transport/fleet"
)

// everyMessage has one of each kind; TestListIsComplete holds it against the
// schema.
var everyMessage = []Message{
	Hello{},
	Welcome{},
	Refusal{},
	Pull{},
	DesiredSet{},
	Report{},
	Acks{},
	CapacityChanged{},
	Readings{},
	Beat{},
	Observed{},
	Goaway{},
	RenewRequest{},
	Certificate{},
	LogsRequest{},
	LogChunk{},
	LogEnd{},
	Bundle{},
	KeyStored{},
	Leave{},
	Upgrade{},
	PackageRequest{},
	PackageChunk{},
	Led{},
	Ask{},
	Relay{},
	RelayHello{},
	RelayWelcome{},
	Through{},
}

// maker fills any message by reflection, so that a field added to a noun is in
// the tests without anybody thinking of it.
type maker struct {
	t *rapid.T
	// full leaves no field at its zero value.
	full bool
}

func (g maker) message(like Message) Message {
	v := reflect.New(reflect.TypeOf(like)).Elem()
	g.fill(v, "")
	return v.Interface().(Message)
}

// signed are the integers that may be negative.
var signed = []string{"UtilPercent", "TemperatureC", "ExitCode", "Signal", "CPUPercent", "ClockOff"}

func (g maker) fill(v reflect.Value, name string) {
	if g.known(v) {
		return
	}
	least := 0
	if g.full {
		least = 1
	}
	switch v.Kind() {
	case reflect.Pointer:
		if g.full || rapid.Bool().Draw(g.t, name) {
			v.Set(reflect.New(v.Type().Elem()))
			g.fill(v.Elem(), name)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			g.fill(v.Field(i), v.Type().Field(i).Name)
		}
	case reflect.Bool:
		v.SetBool(g.full || rapid.Bool().Draw(g.t, name))
	case reflect.Int, reflect.Int64:
		low := int64(least)
		if !g.full && slices.Contains(signed, name) {
			low = math.MinInt32
		}
		high := int64(math.MaxInt32)
		if name == "Port" {
			high = math.MaxUint16
		}
		v.SetInt(rapid.Int64Range(low, high).Draw(g.t, name))
	case reflect.Uint64:
		v.SetUint(rapid.Uint64Min(uint64(least)).Draw(g.t, name))
	case reflect.String:
		v.SetString(rapid.StringN(least, 20, 80).Draw(g.t, name))
	case reflect.Slice:
		g.slice(v, name, least)
	case reflect.Map:
		g.pairs(v, name, least)
	default:
		g.t.Fatalf("%s: teach the maker the type %s", name, v.Type())
	}
}

// known fills the types whose values have rules.
func (g maker) known(v reflect.Value) bool {
	least := 0
	if g.full {
		least = 1
	}
	var x any
	switch v.Interface().(type) {
	case fleet.AgentID, fleet.ReplicaID, fleet.TaskID, fleet.UpdateID, fleet.RolloutID, RefusalCode:
		x = rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,62}`).Draw(g.t, "id")
	case gpu.UUID:
		x = rapid.StringMatching(`(GPU|MIG)-[a-zA-Z0-9/-]{1,40}`).Draw(g.t, "uuid")
	case fleet.Resources:
		x = g.resources(true)
	case fleet.Scalar:
		x = rapid.Int64Range(int64(least), int64(fleet.MaxScalar)).Draw(g.t, "scalar")
	case fleet.Package:
		x = fleet.Package{
			Arch: "amd64", SHA256: rapid.StringMatching(`[0-9a-f]{64}`).Draw(g.t, "digest"),
			Size: rapid.Int64Range(1, fleet.MaxPackageSize).Draw(g.t, "size"), Signature: "untrusted comment",
		}
	case fleet.Network:
		x = rapid.SampledFrom([]fleet.Network{fleet.NetworkNone, fleet.NetworkHost}).Draw(g.t, "network")
	case fleet.TaskState:
		x = rapid.IntRange(int(fleet.TaskStaging), int(fleet.TaskUnknown)).Draw(g.t, "state")
	case fleet.CheckKind:
		x = rapid.SampledFrom([]fleet.CheckKind{fleet.CheckCommand, fleet.CheckHTTP, fleet.CheckTCP}).Draw(g.t, "kind")
	case fleet.CheckResult:
		if !g.full && rapid.Bool().Draw(g.t, "no check") {
			return true
		}
		return false
	case fleet.TaskHealth:
		x = rapid.IntRange(least, int(fleet.TaskUnhealthy)).Draw(g.t, "health")
	case gpu.Health:
		x = rapid.IntRange(least, int(gpu.Lost)).Draw(g.t, "health")
	case time.Time:
		x = timeFrom(rapid.Int64Range(int64(least), math.MaxInt64).Draw(g.t, "time"))
	default:
		return false
	}
	v.Set(reflect.ValueOf(x).Convert(v.Type()))
	return true
}

// resources fills every field as Resources promise to be.
func (g maker) resources(parts bool) fleet.Resources {
	scalar := func(least int64) fleet.Scalar {
		return fleet.Scalar(rapid.Int64Range(least, 1<<40).Draw(g.t, "scalar"))
	}
	least := 0
	if g.full {
		least = 1
	}
	r := fleet.Resources{CPUs: scalar(int64(least)), Mem: scalar(int64(least)), Disk: scalar(int64(least))}
	g.slice(reflect.ValueOf(&r.GPUs).Elem(), "gpus", least)
	for i := range rapid.IntRange(least, 2).Draw(g.t, "items") {
		first := uint16(100*i) + rapid.Uint16Range(1, 50).Draw(g.t, "first")
		r.Ports = append(r.Ports, fleet.Range{First: first, Last: first + rapid.Uint16Range(0, 40).Draw(g.t, "ports")})
		r.Mounts = append(r.Mounts, fleet.Mount{ID: fmt.Sprintf("m%d", i), Size: scalar(1)})
		r.Custom = append(r.Custom, fleet.Amount{Name: fmt.Sprintf("c%d", i), Amount: scalar(1)})
	}
	if !parts {
		return r
	}
	for i := range rapid.IntRange(least, 2).Draw(g.t, "parts") {
		p := g.resources(false)
		p.CPUs++
		r.Parts = append(r.Parts, fleet.Part{Resources: p, Class: fleet.Class{
			Revocable: g.full || rapid.Bool().Draw(g.t, "revocable"),
			Reserved: []fleet.Reservation{{
				Role: fleet.Role(fmt.Sprintf("r%d", i)), Dynamic: g.full || rapid.Bool().Draw(g.t, "dynamic"), Principal: "p",
				Labels: []fleet.Label{{Key: "k", Value: "v"}},
			}},
		}})
	}
	slices.SortFunc(r.Parts, func(a, b fleet.Part) int { return a.Class.Compare(b.Class) })
	return r
}

func (g maker) slice(v reflect.Value, name string, least int) {
	n := rapid.IntRange(least, 3).Draw(g.t, name)
	if n == 0 {
		return // the wire has no empty slices, only missing ones
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	if v.Type().Elem().Kind() == reflect.Uint8 {
		v.SetBytes(rapid.SliceOfN(rapid.Byte(), n, n).Draw(g.t, name))
		return
	}
	if v.Type().Elem().Kind() == reflect.Slice {
		g.full = true // nor empty elements
	}
	for i := range n {
		g.fill(v.Index(i), name)
	}
	switch s := v.Interface().(type) {
	case []gpu.UUID:
		v.Set(reflect.ValueOf(fleet.SortGPUs(s)))
	case []gpu.Device:
		slices.SortFunc(s, func(a, b gpu.Device) int { return cmp.Compare(a.UUID, b.UUID) })
		s = slices.CompactFunc(s, func(a, b gpu.Device) bool { return a.UUID == b.UUID })
		v.Set(reflect.ValueOf(s))
	}
}

func (g maker) pairs(v reflect.Value, name string, least int) {
	m := rapid.MapOfN(rapid.StringN(1, 8, 32), rapid.StringN(0, 8, 32), least, 3).Draw(g.t, name)
	if len(m) > 0 {
		v.Set(reflect.ValueOf(m))
	}
}

// zeros lists the fields of v that are zero.
func zeros(v reflect.Value, path string) []string {
	if _, ok := v.Interface().(time.Time); !ok && v.Kind() == reflect.Struct {
		var out []string
		for i := range v.NumField() {
			if strings.HasSuffix(path, "Parts[0].Resources") && v.Type().Field(i).Name == "Parts" {
				continue // a part has none of its own
			}
			out = append(out, zeros(v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."))...)
		}
		return out
	}
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		return zeros(v.Elem(), path)
	}
	if v.Kind() == reflect.Slice && v.Len() > 0 && v.Type().Elem().Kind() != reflect.Uint8 {
		return zeros(v.Index(0), path+"[0]")
	}
	if v.IsZero() {
		return []string{path}
	}
	return nil
}
