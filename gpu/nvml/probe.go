//go:build cgo && linux

package nvml

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/tenderfleet/tender/gpu"
)

const supported = true

// Probe is the main loop of the child process: it answers the requests that
// come in until in ends or ctx is done. The program must exit when it returns,
// since a call that hangs inside the driver cannot be taken back.
func Probe(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &probe{out: json.NewEncoder(out)}
	requests, failed := make(chan request), make(chan error, 1)
	go func() {
		failed <- readRequests(ctx, in, requests)
		cancel()
	}()
	// Requests are answered apart from this goroutine, so that the end of the
	// agent ends a probe that hangs as well.
	go p.serve(ctx, requests)
	<-ctx.Done()
	select {
	case err := <-failed:
		return err
	default:
		return context.Cause(ctx)
	}
}

func readRequests(ctx context.Context, in io.Reader, to chan<- request) error {
	r := bufio.NewReaderSize(in, maxLine)
	for {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		var q request
		if err := json.Unmarshal(line, &q); err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		select {
		case to <- q:
		case <-ctx.Done():
			return nil
		}
	}
}

// probe is the child's state. One process can load one library only, and NVML
// is initialised once: whatever needs a fresh start gets a fresh process.
type probe struct {
	mu  sync.Mutex // guards out
	out *json.Encoder

	lib     nvml.Interface  // nil until opened
	symbols map[string]bool // what the library has, of what is used here
	args    openArgs
	driver  string
}

// send writes one line. An error means that the agent is gone, and the end of
// the input tells that too.
func (p *probe) send(r reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.out.Encode(r)
}

func (p *probe) serve(ctx context.Context, requests <-chan request) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-requests:
			r, err := p.answer(ctx, q)
			if err != nil {
				r = reply{Error: err.Error()}
			}
			r.ID = q.ID
			p.send(r)
		}
	}
}

func (p *probe) answer(ctx context.Context, q request) (reply, error) {
	if q.Op == opOpen && p.lib == nil && q.Open != nil {
		return p.open(ctx, *q.Open)
	}
	if p.lib == nil {
		return reply{}, fmt.Errorf("%s before a successful open", q.Op)
	}
	switch q.Op {
	case opInventory:
		inv, err := p.inventory()
		return reply{Inventory: inv}, err
	case opReadings:
		readings, err := p.readings()
		return reply{Readings: readings}, err
	case opCDI:
		spec, minors, err := p.cdi(q.GPUs)
		return reply{Spec: spec, Minors: minors}, err
	default:
		return reply{}, fmt.Errorf("unknown request %q", q.Op)
	}
}

// open loads and initialises NVML and starts to listen for events.
func (p *probe) open(ctx context.Context, args openArgs) (reply, error) {
	path := args.Library
	if path == "" {
		path = findLibrary(args.DriverRoot)
	}
	lib := nvml.New(nvml.WithLibraryPath(path))
	switch ret := lib.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return reply{Reason: "no NVIDIA driver: the library " + soname + " was not found; if this machine has a GPU, install its driver"}, nil
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return reply{Reason: "the NVIDIA kernel module is not loaded; run `modprobe nvidia`, or reboot if the driver was just installed"}, nil
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return reply{Reason: "the NVIDIA driver was upgraded while the old kernel module is still loaded; reboot this machine"}, nil
	case nvml.ERROR_NO_PERMISSION:
		return reply{Reason: "no permission to use the NVIDIA driver; run the agent as root, or give it access to /dev/nvidiactl"}, nil
	default:
		return reply{}, fmt.Errorf("initialise NVML: %v (code %d)", ret, int(ret))
	}
	p.lib = lib
	p.lookUp()
	for _, s := range []string{
		"nvmlSystemGetDriverVersion", "nvmlDeviceGetUUID", "nvmlDeviceGetName",
		"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMinorNumber",
	} {
		if !p.has(s) {
			p.lib = nil
			return reply{Reason: "the NVIDIA driver is too old: its library has no " + s + "; install a newer driver"}, nil
		}
	}
	driver, ret := lib.SystemGetDriverVersion()
	if ret != nvml.SUCCESS {
		p.lib = nil
		return reply{}, fmt.Errorf("read the driver's version: %v", ret)
	}
	p.args, p.driver = args, driver
	// Listening begins before the reply, so that the agent misses nothing that
	// happens after it.
	set, err := p.listen()
	go p.watch(ctx, set, err)
	return reply{}, nil
}

// has guards a call: a function that the library lacks would end the process.
// The answers are taken once, since go-nvml's own lookup may not run beside the
// initialisations that nvcdi does.
func (p *probe) has(symbol string) bool { return p.symbols[symbol] }

func (p *probe) lookUp() {
	p.symbols = make(map[string]bool)
	for _, s := range []string{
		"nvmlSystemGetDriverVersion", "nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo",
		"nvmlDeviceGetMinorNumber", "nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetRemappedRows",
		"nvmlDeviceGetFieldValues", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature",
		"nvmlDeviceGetPowerUsage", "nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount",
		"nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId",
		"nvmlDeviceGetAttributes_v2", "nvmlDeviceIsMigDeviceHandle", "nvmlDeviceGetDeviceHandleFromMigDeviceHandle",
		"nvmlEventSetCreate", "nvmlEventSetFree", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes",
	} {
		p.symbols[s] = p.lib.Extensions().LookupSymbol(s) == nil
	}
}

// errNoEvents: this driver, or none of its cards, reports XIDs.
var errNoEvents = errors.New("no device reports events")

// watch pushes events until ctx is done. A failed wait costs a pause and a new
// set, not the health of the devices: it says nothing about which one failed.
func (p *probe) watch(ctx context.Context, set nvml.EventSet, err error) {
	const first, most = time.Second, 30 * time.Second
	for pause := first; ; pause = min(2*pause, most) {
		if err == nil {
			began := time.Now()
			err = p.wait(ctx, set)
			if time.Since(began) > time.Minute {
				pause = first
			}
		}
		if ctx.Err() != nil || errors.Is(err, errNoEvents) {
			return
		}
		p.send(reply{Event: &event{Error: err.Error()}})
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		set, err = p.listen()
	}
}

// wait pushes the events of one set, and frees it.
func (p *probe) wait(ctx context.Context, set nvml.EventSet) error {
	defer set.Free()
	for ctx.Err() == nil {
		data, ret := set.Wait(500)
		switch ret {
		case nvml.SUCCESS:
			p.push(data)
		case nvml.ERROR_TIMEOUT:
		default:
			return fmt.Errorf("wait for events: %v", ret)
		}
	}
	return ctx.Err()
}

// listen makes a set that hears the XIDs of every card that answers.
func (p *probe) listen() (nvml.EventSet, error) {
	for _, s := range []string{
		"nvmlEventSetCreate", "nvmlEventSetFree", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes",
	} {
		if !p.has(s) {
			return nil, errNoEvents
		}
	}
	set, ret := p.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("create an event set: %v", ret)
	}
	registered, err := p.register(set)
	if err == nil && registered == 0 {
		err = errNoEvents
	}
	if err != nil {
		set.Free()
		return nil, err
	}
	return set, nil
}

// register listens for XIDs on every card that answers.
func (p *probe) register(set nvml.EventSet) (int, error) {
	n, ret := p.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return 0, fmt.Errorf("count the GPUs: %v", ret)
	}
	registered := 0
	for i := range n {
		h, ret := p.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		can, ret := h.GetSupportedEventTypes()
		if ret != nvml.SUCCESS || can&nvml.EventTypeXidCriticalError == 0 {
			continue
		}
		if h.RegisterEvents(nvml.EventTypeXidCriticalError, set) == nvml.SUCCESS {
			registered++
		}
	}
	return registered, nil
}

func (p *probe) push(data nvml.EventData) {
	if data.EventType != nvml.EventTypeXidCriticalError || data.Device == nil {
		return
	}
	uuid, ret := data.Device.GetUUID()
	if ret != nvml.SUCCESS {
		p.send(reply{Event: &event{Error: fmt.Sprintf("XID %d on a device that does not tell its UUID: %v", data.EventData, ret)}})
		return
	}
	p.send(reply{Event: &event{UUID: gpu.UUID(uuid), XID: data.EventData, GI: data.GpuInstanceId, CI: data.ComputeInstanceId}})
}
