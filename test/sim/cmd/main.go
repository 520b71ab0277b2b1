// Command sim runs many seeds, or shows one.
//
//	go run ./test/sim/cmd -seeds 100000
//	go run ./test/sim/cmd -seed 182 -v
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/tenderfleet/tender/test/sim"
)

func main() {
	seed := flag.Uint64("seed", 0, "the first seed")
	n := flag.Uint64("seeds", 1, "how many seeds")
	verbose := flag.Bool("v", false, "print every step")
	flag.Parse()
	opt := sim.Options{}
	if *verbose {
		opt.Trace = os.Stdout
	}
	begin := time.Now()
	for s := *seed; s < *seed+*n; s++ {
		if _, err := sim.Run(s, opt); err != nil {
			fmt.Printf("seed %d: %v\n", s, err)
			os.Exit(1)
		}
		if done := s - *seed + 1; done%1000 == 0 {
			fmt.Printf("%d seeds in %v\n", done, time.Since(begin).Round(time.Second))
		}
	}
	fmt.Printf("%d seeds passed in %v\n", *n, time.Since(begin).Round(time.Millisecond))
}
