// Package cli is the tender command: cobra for commands, viper for settings,
// package client for the API.
//
//	os.Exit(cli.Run(ctx, os.Args[1:], os.Environ(), streams))
//
// Settings come from flags, TENDER_* variables, the configuration file and
// defaults, in this order. Results go to stdout, everything else to stderr.
// What other machines wrote is shown with its control characters made visible;
// only the output of tasks is passed on as it is.
//
// Exit codes: 0, 1 for an error, 2 for a wrong use, and for `tender run` 125
// for both, since 0 to 255 are the task's own there.
package cli
