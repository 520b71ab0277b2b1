// Command cmd writes a driver root with stand-in GPUs to a directory, for shell
// scripts:
//
//	go run ./test/fakenvml/cmd -dir DIR -gpus 2 -model "NVIDIA RTX A6000" -mem 49140
//	go run ./test/fakenvml/cmd -dir DIR -xid 79 -gpu 0   # a fault on GPU 0
//	go run ./test/fakenvml/cmd -dir DIR -gpus 2 -lost 1  # GPU 1 fell off the bus
//
// Point the agent's GPU driver root at DIR. It must run as root.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/tenderfleet/tender/test/fakenvml"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("fakenvml", flag.ContinueOnError)
	fs.SetOutput(stderr)
	dir := fs.String("dir", "", "directory of the driver root (required)")
	gpus := fs.Int("gpus", 2, "number of GPUs, 0 to 16")
	model := fs.String("model", "NVIDIA RTX A6000", "product name")
	mem := fs.Int64("mem", 49140, "memory in MiB")
	lost := fs.Int("lost", -1, "index of a GPU that is lost")
	xid := fs.Int("xid", 0, "report this XID on -gpu in an existing root, and change nothing else")
	gpu := fs.Int("gpu", 0, "index of the GPU of -xid")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if *dir == "" || *gpus < 0 || *gpus > 16 || *lost >= *gpus || fs.NArg() > 0 {
		fmt.Fprintln(stderr, "give -dir, 0 to 16 -gpus, and a -lost below -gpus")
		return 2
	}
	if *xid != 0 {
		return done(stderr, fakenvml.AppendEvent(fakenvml.RootAt(*dir).State, *gpu, fakenvml.XID, *xid))
	}
	w := fakenvml.NewWorld(*gpus, *model, *mem)
	if *lost >= 0 {
		w.GPUs[*lost].Lost = true
	}
	root, err := fakenvml.DriverRoot(*dir, w)
	if err == nil {
		fmt.Fprintf(stdout, "driver_root=%s\nlibrary=%s\nstate=%s\n", root.Dir, root.Library, root.State)
	}
	return done(stderr, err)
}

func done(stderr io.Writer, err error) int {
	if err != nil {
		fmt.Fprintln(stderr, "fakenvml:", err)
		return 1
	}
	return 0
}
