// Command guest lets a test work on the virtual machine that it runs on: it
// serves package shell on a port of the virtual hardware. See package vm.
package main

import (
	"fmt"
	"os"

	"github.com/tenderfleet/tender/test/vm/shell"
)

func main() {
	port, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err == nil {
		err = shell.Serve(port)
	}
	fmt.Fprintln(os.Stderr, "guest:", err)
	os.Exit(1)
}
