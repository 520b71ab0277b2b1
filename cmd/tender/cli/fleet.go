package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/cmd/internal/version"
	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) agentsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "agents",
		Short: "List the machines of the fleet",
		Long: `List the machines of the fleet.

AVAILABILITY says whether an agent is offered: active, draining, drained,
deactivated, or in maintenance. LINK is what carries the agent's session:
quic, or tcp where UDP is blocked, and whether only states and kills travel there:
quiet hours, or over budget. CERT is how
many days its certificate still holds. Of CPUS and MEM, what is free comes before
what there is.`,
		Example: "  tender agents\n  tender agents -o json",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			agents, err := c.Agents(ctx)
			if err != nil {
				return err
			}
			return a.print(agents, func(w io.Writer) {
				var rows [][]string
				for _, g := range agents {
					rows = append(rows, []string{
						g.ID, g.Site, g.State, g.Availability, linkText(g), days(g.CertDaysLeft), share(g, cpusOf), share(g, memOf),
						gpuSummary(g.GPUs), strconv.Itoa(len(g.Tasks)), a.seen(g),
					})
				}
				table(w, "AGENT SITE STATE AVAILABILITY LINK CERT CPUS MEM GPUS TASKS LAST_SEEN", rows)
				for _, g := range agents {
					a.agentNotes(g)
				}
			})
		}),
	}
}

// agentNotes says what is wrong with an agent that no column tells.
func (a *app) agentNotes(g client.Agent) {
	if g.Cloned != nil {
		fmt.Fprintf(a.Err, "note:  %s: %s\n", clean(g.ID), clean(a.clonedField(g)))
	}
	if g.ClockOff != 0 {
		fmt.Fprintf(a.Err, "note:  %s: its machine's clock is %s\n", clean(g.ID), clockField(g))
	}
	if r := g.Readings; r != nil && r.Settings != "" {
		fmt.Fprintf(a.Err, "note:  %s: its settings are broken: %s\n", clean(g.ID), clean(r.Settings))
	}
	if failedUpgrade(g) {
		fmt.Fprintf(a.Err, "note:  %s: its upgrade to %s\n", clean(g.ID), clean(upgradeText(g)))
	}
}

// clonedField says what is known of a copy of the agent's machine.
func (a *app) clonedField(g client.Agent) string {
	c := g.Cloned
	if c == nil {
		return ""
	}
	text := fmt.Sprintf("another machine used its identity %s, from %s: %s", ago(a.now(), c.At), c.Addr, c.Text)
	if c.Times > 1 {
		text += fmt.Sprintf(" (%d times)", c.Times)
	}
	return text
}

func clockField(g client.Agent) string {
	switch off := time.Duration(g.ClockOff); {
	case off > 0:
		return span(off) + " behind; what it tells is corrected"
	case off < 0:
		return span(-off) + " ahead; what it tells is corrected"
	}
	return ""
}

func healedField(now time.Time, g client.Agent) string {
	if g.Healed.IsZero() {
		return ""
	}
	return ago(now, g.Healed)
}

func cpusOf(r client.Resources) string { return string(r.CPUs) }
func memOf(r client.Resources) string  { return mem(r.Mem) }

// share is free/total, or the total of an agent that is away.
func share(g client.Agent, of func(client.Resources) string) string {
	if g.Free == nil {
		return of(g.Total)
	}
	return of(*g.Free) + "/" + of(g.Total)
}

func days(n *int) string {
	switch {
	case n == nil:
		return ""
	case *n < 0:
		return "ended"
	default:
		return fmt.Sprintf("%dd", *n)
	}
}

func (a *app) seen(g client.Agent) string {
	if g.LastSeen.IsZero() {
		return "never"
	}
	return ago(a.now(), g.LastSeen)
}

// gpuSummary counts equal devices: "2x NVIDIA RTX A6000 48G (1 unhealthy)".
func gpuSummary(gpus []client.GPU) string {
	type kind struct {
		model  string
		memory int64
	}
	var order []kind
	count, bad := map[kind]int{}, map[kind]map[string]int{}
	for _, g := range gpus {
		k := kind{strings.TrimSpace(g.Model + " " + g.Profile), g.Memory}
		if count[k] == 0 {
			order, bad[k] = append(order, k), map[string]int{}
		}
		count[k]++
		if g.Health != "healthy" {
			bad[k][g.Health]++
		}
	}
	var parts []string
	for _, k := range order {
		s := fmt.Sprintf("%dx %s %s", count[k], k.model, mem(client.Amount(strconv.FormatInt(k.memory, 10))))
		for _, h := range []string{"suspect", "unhealthy", "lost", "unknown"} {
			if n := bad[k][h]; n > 0 {
				s += fmt.Sprintf(" (%d %s)", n, h)
			}
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, ", ")
}

func (a *app) agentCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "agent",
		Short:   "Show, drain, reserve or remove one machine of the fleet",
		Example: "  tender agent show gpu-1\n  tender agent drain gpu-1 --wait",
	}, a.agentShow(), a.agentDrain(), a.agentDeactivate(), a.agentReactivate(), a.agentReserve(), a.agentUnreserve(),
		a.agentGone(), a.agentRevoke(), a.agentSettle())
}

func (a *app) agentShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show AGENT",
		Short:   "Show one agent: resources, reservations, GPUs, tasks",
		Example: "  tender agent show gpu-1",
		Args:    arity(1, 1, "AGENT"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			g, err := c.Agent(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(g, func(w io.Writer) { a.agentTable(w, g) })
		}),
	}
}

func (a *app) agentTable(w io.Writer, g client.Agent) {
	cert := ""
	if g.CertDaysLeft != nil {
		cert = fmt.Sprintf("%s (%s)", ago(a.now(), g.CertNotAfter), g.CertNotAfter.UTC().Format(time.RFC3339))
	}
	pairs := []string{
		"Agent", g.ID, "State", g.State, "Availability", g.Availability, "Drain", a.drainField(g), "Maintenance", a.windowField(g), "Site", g.Site, "Labels", labels(g.Labels), "Hostname", g.Hostname,
		"Version", g.Version, "Link", strings.TrimSpace(g.Link + " " + g.Remote), "Joined", ago(a.now(), g.Joined),
		"Connected", ago(a.now(), g.Since), "Last seen", a.seen(g), "Certificate ends", cert,
		"Certificate healed", healedField(a.now(), g), "Copy", a.clonedField(g), "Clock", clockField(g),
		"Tasks", strings.Join(g.Tasks, ", "),
	}
	if r := g.Readings; r != nil {
		pairs = append(pairs, "CPU in use", fmt.Sprintf("%d%%", r.CPUPercent), "Updates to send", strconv.Itoa(r.Spooled), "Runtime", cmp.Or(r.Runtime, "works"), "Link this month", linkUse(r.Link))
		if r.Settings != "" {
			pairs = append(pairs, "Settings", r.Settings)
		}
		pairs = append(pairs, "Upgrade", upgradeText(g))
	}
	fields(w, pairs...)
	fmt.Fprintln(w)
	resourceTable(w, g)
	if len(g.Total.Reserved) > 0 {
		fmt.Fprintln(w)
		reservedTable(w, g.Total)
	}
	if len(g.GPUs) > 0 {
		fmt.Fprintln(w)
		gpuTable(w, g)
	}
}

// linkUse is what an agent's link has carried, for a line.
func linkUse(u *client.LinkUse) string {
	if u == nil {
		return ""
	}
	text := bytesText(u.Total)
	if u.Budget > 0 {
		text += " of " + bytesText(u.Budget)
	}
	text += fmt.Sprintf(" (keepalive %s, readings %s, updates %s, images %s, logs %s)",
		bytesText(u.Keepalive), bytesText(u.Readings), bytesText(u.Updates), bytesText(u.Images), bytesText(u.Logs))
	if u.State != "" {
		text += "; " + u.State + ": only states and kills travel"
	}
	return text
}

// bytesText is in decimal units, as contracts for links are.
func bytesText(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"GB", 1e9}, {"MB", 1e6}} {
		if n >= u.size {
			return fmt.Sprintf("%d.%d %s", n/u.size, n/(u.size/10)%10, u.name)
		}
	}
	return fmt.Sprintf("%d kB", (n+999)/1000)
}

// linkText is what carries a session, and what is held back there.
func linkText(g client.Agent) string {
	if g.Readings == nil || g.Readings.Link == nil || g.Readings.Link.State == "" || g.Link == "" {
		return g.Link
	}
	return g.Link + " (" + g.Readings.Link.State + ")"
}

func (a *app) drainField(g client.Agent) string {
	switch d := g.Drain; {
	case d == nil:
		return ""
	case d.Done.IsZero():
		return "since " + span(a.now().Sub(d.Started)) + "; " + drainText(g)
	default:
		return "ended " + ago(a.now(), d.Done)
	}
}

func (a *app) windowField(g client.Agent) string {
	m := g.Maintenance
	if m == nil {
		return ""
	}
	text := "from " + m.Start.UTC().Format(time.RFC3339)
	if m.Duration > 0 {
		text += " to " + m.Start.Add(time.Duration(m.Duration)).UTC().Format(time.RFC3339)
	}
	return text
}

func gpuTable(w io.Writer, g client.Agent) {
	var rows [][]string
	for _, d := range g.GPUs {
		use := ""
		if r := d.Reading; r != nil {
			use = fmt.Sprintf("%dM %dC", r.MemoryUsed, r.TemperatureC)
			if r.UtilPercent >= 0 {
				use = fmt.Sprintf("%d%% %s", r.UtilPercent, use)
			}
		}
		health := d.Health
		if d.Reason != "" {
			health += ": " + d.Reason
		}
		rows = append(rows, []string{
			d.UUID, strings.TrimSpace(d.Model + " " + d.Profile), mem(client.Amount(strconv.FormatInt(d.Memory, 10))),
			d.Compute, health, use, d.Task,
		})
	}
	table(w, "GPU MODEL MEMORY COMPUTE HEALTH USE TASK", rows)
}

func (a *app) agentRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke AGENT",
		Short: "Ban an agent for good and end its tasks",
		Long: `Ban an agent for good and end its tasks.

Its session is closed and its certificate is no longer accepted anywhere. There
is no way back for this identity; the machine may join again as a new agent.`,
		Example: "  tender agent revoke gpu-1",
		Args:    arity(1, 1, "AGENT"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			g, err := c.RevokeAgent(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(g, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", clean(g.ID), clean(g.State)) })
		}),
	}
}

func (a *app) replicasCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "replicas",
		Short: "List the replicas of the control plane",
		Long: `List the replicas of the control plane, as the one that answers sees them.

The leader knows when it last heard of each; the others know that of the leader.`,
		Example: "  tender replicas",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			r, err := c.Replicas(ctx)
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) {
				var rows [][]string
				for _, p := range r.Replicas {
					role, contact := "follower", ago(a.now(), p.LastContact)
					switch {
					case p.Leader:
						role = "leader"
					case !p.Voter:
						role = "learner"
					}
					if p.Self {
						contact = "answers"
					}
					rows = append(rows, []string{p.ID, p.Addr, role, contact})
				}
				table(w, "REPLICA ADDRESS ROLE LAST_CONTACT", rows)
				if r.Leader == "" {
					fmt.Fprintln(a.Err, "No replica leads: an election is under way, or most replicas do not answer.")
				}
			})
		}),
	}
}

// versions is what `tender version -o json` prints.
type versions struct {
	Client client.Version  `json:"client"`
	Server *client.Version `json:"server,omitempty"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of tender and of the replica that answers",
		Example: "  tender version",
		Args:    arity(0, 0, ""),
		RunE: a.do(func(ctx context.Context, _ []string) error {
			i := version.Get()
			v := versions{Client: client.Version(i)}
			// Without a control plane the version is still one.
			if c, err := a.connect(); err == nil {
				ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
				if s, err := c.ServerVersion(ctx); err == nil {
					v.Server = &s
				}
				cancel()
				c.Close()
			}
			return a.print(v, func(w io.Writer) {
				server := "does not answer"
				if v.Server != nil {
					server = versionText(*v.Server)
				}
				fields(w, "tender", versionText(v.Client), "server", server)
			})
		}),
	}
}

func versionText(v client.Version) string {
	return strings.Join(strings.Fields(v.Version+" "+v.Commit+" "+v.Go), " ")
}
