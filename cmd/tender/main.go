// Command tender is the operator's and the user's tool: it runs tasks on the
// fleet and shows what the fleet does.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tenderfleet/tender/cmd/tender/cli"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(cli.Run(context.Background(), os.Args[1:], os.Environ(), cli.Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Signals: signals,
	}))
}
