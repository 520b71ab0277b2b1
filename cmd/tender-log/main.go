// Command tender-log writes what one task prints to its log files. The
// container's shim starts one for every task, so it is small: it links nothing
// of the agent but the writer, and starts four times as fast as the agent.
package main

import (
	"os"
	"syscall"

	"github.com/tenderfleet/tender/agent/tasklog"
)

func main() {
	// The first argument is the word "log", as in "tender-agent log".
	syscall.Exit(tasklog.Main(os.Args[min(2, len(os.Args)):]))
}
