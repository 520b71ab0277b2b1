package fakenvml

import (
	"debug/elf"
	"fmt"
)

// CheckLazyBinding returns an error if the program at path asks the loader to
// bind every symbol at start-up.
//
// A program that calls NVML must bind lazily: it names functions that only
// newer drivers have, and with immediate binding it would not start on a
// machine with an older driver or none. Link with
// -ldflags=-extldflags=-Wl,-z,lazy where the toolchain's default differs.
func CheckLazyBinding(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("check lazy binding: %w", err)
	}
	defer f.Close()
	flags, err := f.DynValue(elf.DT_FLAGS)
	if err != nil {
		return fmt.Errorf("check lazy binding of %s: %w", path, err)
	}
	flags1, err := f.DynValue(elf.DT_FLAGS_1)
	if err != nil {
		return fmt.Errorf("check lazy binding of %s: %w", path, err)
	}
	now, err := f.DynValue(elf.DT_BIND_NOW)
	if err != nil {
		return fmt.Errorf("check lazy binding of %s: %w", path, err)
	}
	bound := len(now) > 0
	for _, v := range flags {
		bound = bound || elf.DynFlag(v)&elf.DF_BIND_NOW != 0
	}
	for _, v := range flags1 {
		bound = bound || elf.DynFlag1(v)&elf.DF_1_NOW != 0
	}
	if bound {
		return fmt.Errorf("%s binds every symbol at start-up (BIND_NOW): build it with -ldflags=-extldflags=-Wl,-z,lazy", path)
	}
	return nil
}
