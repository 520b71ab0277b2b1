// Command tenderd is one replica of a Tender control plane.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tenderfleet/tender/cmd/tenderd/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := server.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
