//go:build cgo && linux

package nvml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/nvidia-container-toolkit/pkg/nvcdi"
	cdispec "tags.cncf.io/container-device-interface/specs-go"

	"github.com/tenderfleet/tender/gpu"
)

// cdi describes what containers need to use the given devices, and the minor
// number of each one's card, read in the same breath.
func (p *probe) cdi(uuids []gpu.UUID) (*cdispec.Spec, map[gpu.UUID]int, error) {
	minors := make(map[gpu.UUID]int)
	var ids []string
	for _, u := range uuids {
		if err := checkUUID(u); err != nil {
			return nil, nil, err
		}
		minor, err := p.minor(u)
		if err != nil {
			return nil, nil, err
		}
		// nvcdi passes over a node that is not a device and ends in an error
		// that names no path, so the node is looked at first.
		path := filepath.Join(p.args.DevRoot, "dev", fmt.Sprintf("nvidia%d", minor))
		if st, err := os.Lstat(path); err != nil || st.Mode()&os.ModeCharDevice == 0 {
			return nil, nil, fmt.Errorf("GPU %s: %s is no device node; run `nvidia-modprobe -c %d`", u, path, minor)
		}
		if _, twice := minors[u]; !twice {
			ids = append(ids, string(u))
		}
		minors[u] = minor
	}
	if len(ids) == 0 {
		return nil, nil, errors.New("no device asked for")
	}
	spec, err := p.spec(ids)
	if err != nil {
		return nil, nil, fmt.Errorf("describe the driver's files: %w", err)
	}
	return spec, minors, nil
}

// minor is the minor number of the card that u is, or is a slice of.
func (p *probe) minor(u gpu.UUID) (int, error) {
	h, ret := p.lib.DeviceGetHandleByUUID(string(u))
	switch ret {
	case nvml.SUCCESS:
	case nvml.ERROR_NOT_FOUND, nvml.ERROR_INVALID_ARGUMENT:
		return 0, fmt.Errorf("no GPU %s on this machine", u)
	default:
		return 0, fmt.Errorf("GPU %s: %v", u, ret)
	}
	if p.has("nvmlDeviceIsMigDeviceHandle") && p.has("nvmlDeviceGetDeviceHandleFromMigDeviceHandle") {
		if mig, ret := h.IsMigDeviceHandle(); ret == nvml.SUCCESS && mig {
			if h, ret = h.GetDeviceHandleFromMigDeviceHandle(); ret != nvml.SUCCESS {
				return 0, fmt.Errorf("GPU %s: find its card: %v", u, ret)
			}
		}
	}
	minor, ret := h.GetMinorNumber()
	if ret != nvml.SUCCESS {
		return 0, fmt.Errorf("GPU %s: read its minor number: %v", u, ret)
	}
	return minor, nil
}

func (p *probe) spec(ids []string) (*cdispec.Spec, error) {
	namer, err := nvcdi.NewDeviceNamer(nvcdi.DeviceNameStrategyUUID)
	if err != nil {
		return nil, err
	}
	root := p.args.DriverRoot
	l, err := nvcdi.New(
		nvcdi.WithLogger(noLog{}), nvcdi.WithMode(nvcdi.ModeNvml), nvcdi.WithNvmlLib(p.lib),
		nvcdi.WithDriverRoot(root), nvcdi.WithDevRoot(p.args.DevRoot),
		nvcdi.WithDeviceNamers(namer), nvcdi.WithVendor("tender.local"), nvcdi.WithClass("gpu"),
		nvcdi.WithDisabledHooks(nvcdi.AllHooks),
		nvcdi.WithFeatureFlags(nvcdi.FeatureDisableNvsandboxUtils, nvcdi.FeatureDisableIPCDiscoverer),
	)
	if err != nil {
		return nil, err
	}
	s, err := l.GetSpec(ids...)
	if err != nil {
		return nil, err
	}
	return s.Raw(), nil
}

// noLog drops what nvcdi tells along the way: the child's one output carries
// replies, and what matters comes back as an error.
type noLog struct{}

func (noLog) Debugf(string, ...any)   {}
func (noLog) Errorf(string, ...any)   {}
func (noLog) Infof(string, ...any)    {}
func (noLog) Warningf(string, ...any) {}
func (noLog) Tracef(string, ...any)   {}
