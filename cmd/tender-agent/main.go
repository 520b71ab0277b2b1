// Command tender-agent runs tasks on this machine for a Tender control plane.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tenderfleet/tender/cmd/tender-agent/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := daemon.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
