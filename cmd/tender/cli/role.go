package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/viper"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) roleCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "role",
		Aliases: []string{"roles"},
		Short:   "List the roles that share the fleet, and weigh them",
		Long: `List the roles that share the fleet, and weigh them.

Roles make a tree: "research/vision" is below "research". Each level shares what
the one above has by weight: of two roles that both want more, one of weight 2
gets twice as much as one of weight 1. What a role is guaranteed and limited to
is its quota: tender quota.`,
		Example: "  tender role list\n  tender role weight research 2",
	}, a.roleList(), a.roleWeight())
}

func (a *app) roleList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List roles: weight, quota, what they hold, their share of the fleet",
		Long: `List roles: weight, quota, what they hold, their share of the fleet.

CONSUMED counts against the quota: reservations, used or not, and what tasks use
beside; that of the roles below is part of it. OFFERED is on offer and counts as
well until it is declined. SHARE is the dominant share: that of the resource of
which the role has the largest part of the fleet.`,
		Example: "  tender role list\n  tender role list -o json",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Roles(ctx)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) { roleTable(w, list) })
		}),
	}
}

func roleTable(w io.Writer, list []client.Role) {
	var rows [][]string
	for _, r := range list {
		rows = append(rows, []string{
			r.Role, string(r.Weight), amounts(r.Guarantee), amounts(r.Limit), amounts(r.Consumed), amounts(r.Offered),
			shareText(r), strings.Join(r.Frameworks, ","),
		})
	}
	table(w, "ROLE WEIGHT GUARANTEE LIMIT CONSUMED OFFERED SHARE FRAMEWORKS", rows)
}

// shareText rounds a share to a tenth of a percent.
func shareText(r client.Role) string {
	p, err := strconv.ParseFloat(string(r.Share), 64)
	if err != nil || r.Dominant == "" {
		return ""
	}
	return strconv.FormatFloat(p, 'f', 1, 64) + "% " + r.Dominant
}

// amounts writes quantities as they are written on the command line, the usual
// names first.
func amounts(q client.Quantities) string {
	names := make([]string, 0, len(q))
	for n := range q {
		names = append(names, n)
	}
	order := []string{"cpus", "mem", "disk", "gpus"}
	slices.SortFunc(names, func(x, y string) int {
		i, j := slices.Index(order, x), slices.Index(order, y)
		switch {
		case i >= 0 && j >= 0:
			return i - j
		case i >= 0:
			return -1
		case j >= 0:
			return 1
		}
		return strings.Compare(x, y)
	})
	parts := make([]string, len(names))
	for i, n := range names {
		text := string(q[n])
		if n == "mem" || n == "disk" {
			text = mem(q[n])
		}
		parts[i] = n + "=" + text
	}
	return strings.Join(parts, ",")
}

// parseAmounts reads "cpus=10,mem=64G". What the amounts mean is the control
// plane's to say.
func parseAmounts(what, text string) (client.Quantities, error) {
	q := client.Quantities{}
	for part := range strings.SplitSeq(text, ",") {
		name, amount, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" || amount == "" {
			return nil, usagef("%s %q: write NAME=AMOUNT,..., such as cpus=10,mem=64G,gpus=4", what, text)
		}
		if _, twice := q[name]; twice {
			return nil, usagef("%s %q: %s is named twice", what, text, name)
		}
		q[name] = client.Amount(amount)
	}
	return q, nil
}

func (a *app) roleWeight() *cobra.Command {
	return &cobra.Command{
		Use:     "weight ROLE WEIGHT",
		Short:   "Set a role's weight, 1 unless set",
		Example: "  tender role weight research 2.5",
		Args:    arity(2, 2, "ROLE or WEIGHT"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.SetWeight(ctx, args[0], client.Amount(args[1]))
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) { fmt.Fprintf(w, "%s weighs %s\n", clean(r.Role), clean(string(r.Weight))) })
		}),
	}
}

func (a *app) quotaCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "quota",
		Short: "Guarantee roles a part of the fleet, and limit them",
		Long: `Guarantee roles a part of the fleet, and limit them.

A guarantee is held back for its role from everybody else's offers; it is taken
from nobody who has it already. A limit holds for the role and all below it: what
is on offer beyond it is taken back at once, tasks go on. What has no limit is
unlimited.`,
		Example: "  tender quota set research --guarantee cpus=10,mem=64G --limit cpus=20\n  tender quota list",
	}, a.quotaSet(), a.quotaList(), a.quotaClear())
}

func (a *app) quotaSet() *cobra.Command {
	var guarantee, limit, file string
	var force bool
	cmd := &cobra.Command{
		Use:   "set ROLE",
		Short: "Set a role's quota, or that of several roles from a file",
		Long: `Set a role's quota, or that of several roles from a file.

The whole quota of the role is replaced: what is not named is neither guaranteed
nor limited any more. Roles of a file are set all or, where one of them cannot
be, none. The file is YAML or JSON, as 'tender quota list -o json' prints it:

  quotas:
    - role: research
      guarantee: {cpus: 10, mem: 64G, gpus: 4}
      limit: {cpus: 20}
    - role: research/vision
      limit: {gpus: 2}

Refused are guarantees beyond what the fleet has and names that no agent has,
unless --force is given; and, always, a limit above that of the role above, a
limit below what the role and those below it are guaranteed, and fractions of
GPUs.`,
		Example: `  tender quota set research --guarantee cpus=10,mem=64G,gpus=4 --limit cpus=20
  tender quota set --file quota.yaml
  tender quota list -o json | tender quota set --file -`,
		Args: arity(0, 1, ""),
	}
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, args []string) error {
		in, err := a.quotaArgs(args, guarantee, limit, file)
		if err != nil {
			return err
		}
		in.Force = in.Force || force
		list, err := c.SetQuota(ctx, in)
		if err != nil {
			return err
		}
		return a.printQuota(list)
	})
	f := cmd.Flags()
	f.StringVar(&guarantee, "guarantee", "", "what the role can count on: cpus=10,mem=64G,gpus=4")
	f.StringVar(&limit, "limit", "", "what the role must not exceed: cpus=20")
	f.StringVarP(&file, "file", "f", "", "file with the quota of several roles, - for stdin")
	f.BoolVar(&force, "force", false, "accept guarantees beyond what the fleet has, and names that no agent has yet")
	return cmd
}

func (a *app) quotaArgs(args []string, guarantee, limit, file string) (in client.SetQuota, err error) {
	switch {
	case file != "" && (len(args) > 0 || guarantee != "" || limit != ""):
		return in, usagef("--file has the roles and amounts: give it alone")
	case file != "":
		return a.readQuota(file)
	case len(args) == 0:
		return in, usagef("ROLE is missing, or --file")
	case guarantee == "" && limit == "":
		return in, usagef("--guarantee or --limit is missing; to end a quota: tender quota clear %s", args[0])
	}
	q := client.Quota{Role: args[0]}
	if guarantee != "" {
		if q.Guarantee, err = parseAmounts("--guarantee", guarantee); err != nil {
			return in, err
		}
	}
	if limit != "" {
		if q.Limit, err = parseAmounts("--limit", limit); err != nil {
			return in, err
		}
	}
	in.Quotas = []client.Quota{q}
	return in, nil
}

// maxQuotaFile bounds what is read as a file of quota.
const maxQuotaFile = 1 << 20

func (a *app) readQuota(path string) (in client.SetQuota, err error) {
	input := a.In
	if path != "-" {
		f, err := os.Open(a.homePath(path)) //nolint:gosec // the caller names it
		if err != nil {
			return in, fmt.Errorf("read quota: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read
		input = f
	}
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00")) // a name may have dots
	v.SetConfigType("yaml")                               // JSON is YAML, too
	err = v.ReadConfig(io.LimitReader(input, maxQuotaFile))
	if err == nil {
		in, err = decodeQuota(v.AllSettings())
	}
	if err == nil && len(in.Quotas) == 0 {
		err = errors.New("it has no quotas")
	}
	if err != nil {
		return in, hint("see the form of the file with: tender quota set --help", "read quota from %s: %w", path, err)
	}
	return in, nil
}

// decodeQuota takes only what it knows: an unknown key would be without effect.
func decodeQuota(settings map[string]any) (in client.SetQuota, err error) {
	data, err := json.Marshal(plainNumbers(settings))
	if err != nil {
		return in, err
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return in, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return in, nil
}

// plainNumbers writes numbers with the digits that they have in the file.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[k] = plainNumbers(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = plainNumbers(e)
		}
		return out
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return v
}

func (a *app) printQuota(list []client.Role) error {
	doc := client.SetQuota{Quotas: []client.Quota{}}
	var rows [][]string
	for _, r := range list {
		if len(r.Guarantee)+len(r.Limit) == 0 {
			continue
		}
		doc.Quotas = append(doc.Quotas, client.Quota{Role: r.Role, Guarantee: r.Guarantee, Limit: r.Limit})
		rows = append(rows, []string{r.Role, amounts(r.Guarantee), amounts(r.Limit), amounts(r.Consumed), amounts(r.Offered)})
	}
	return a.print(doc, func(w io.Writer) { table(w, "ROLE GUARANTEE LIMIT CONSUMED OFFERED", rows) })
}

func (a *app) quotaList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the roles that have quota, and what counts against it",
		Long: `List the roles that have quota, and what counts against it.

As JSON it is what 'tender quota set --file' reads.`,
		Example: "  tender quota list\n  tender quota list -o json > quota.json",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Roles(ctx)
			if err != nil {
				return err
			}
			return a.printQuota(list)
		}),
	}
}

func (a *app) quotaClear() *cobra.Command {
	return &cobra.Command{
		Use:     "clear ROLE",
		Short:   "End a role's quota: nothing is guaranteed or limited any more",
		Example: "  tender quota clear research",
		Args:    arity(1, 1, "ROLE"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			return c.ClearQuota(ctx, args[0])
		}),
	}
}
