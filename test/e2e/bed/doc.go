// Package bed builds a small internet out of network namespaces: replicas on a
// wide-area network, and sites behind routers that translate addresses, so that
// nobody outside can reach an agent.
//
//	c1 c2 c3            203.0.113.11 ...     on the bridge wan, in namespace w
//	   |
//	  wan ---- r1       203.0.113.101, NAT   on the bridge lan, in namespace r1
//	   |        +-- a1 a2    198.18.1.11 ...
//	   +------ r2       203.0.113.102, NAT
//	   |        +-- a3       198.18.2.13
//	   +------ o1       203.0.113.200        where clients are
//
// A caller builds it, runs programs on its nodes, breaks its links, and takes
// it down:
//
//	b, err := bed.Up(ctx, bed.Config{Prefix: "demo", Replicas: 3, Sites: []int{2, 1}})
//	cmd := b.Command(ctx, "c1", "tenderd", "run")
//	err = b.Cut(ctx, "r1") // site 1 loses its uplink
//	err = b.Restore(ctx, "r1")
//	err = b.Drop(ctx, bed.Loss{From: "c1", To: "c2"}) // one way only
//	err = b.Heal(ctx)
//	cable, err := b.Cable(ctx, "r1")
//	cable.Set(bed.Quality{Delay: 100 * time.Millisecond, Jitter: 30 * time.Millisecond})
//	err = b.Down(ctx)
//
// In tests Start does the first and the last. Nothing in a bed has a link to the
// machine's own network; namespaces are called PREFIX-NODE, so beds with
// different prefixes do not meet. Clean removes what a crash left. Root is
// needed, and ip, nft, conntrack and nsenter.
package bed
