package executor

import (
	"fmt"
	"syscall"
)

// String says how the task ended, in the words of a status message.
func (e Exit) String() string {
	switch {
	case e.OOM:
		return "killed by the kernel: it exceeded its memory limit"
	case e.Signal != 0:
		return fmt.Sprintf("ended by signal %d (%s)", e.Signal, syscall.Signal(e.Signal))
	default:
		return fmt.Sprintf("exited with code %d", e.Code)
	}
}
