package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
)

func (a *app) caCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "ca",
		Short:   "See what the fleet trusts, and replace it",
		Example: "  tender ca show\n  tender ca rotate",
	}, a.caShow(), a.caRotate())
}

func (a *app) caShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show trust roots, issuing authorities, and which agents have the newest trust bundle",
		Long: `Show trust roots, issuing authorities, and which agents have the newest trust bundle.

The trust bundle is the set of roots that replicas, agents and others verify
certificates by; its version grows with every change. Connected agents are sent a
newer one at once and say when they have stored it; the others get it when they
are back. Each replica issues certificates under its own authority: LATE-COMERS
says whether agents can verify it that know the root of before the last rotation
alone. Of a rotation the phase is shown, and who is waited for.`,
		Example: "  tender ca show\n  tender ca show -o json",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			ca, err := c.CA(ctx)
			if err != nil {
				return err
			}
			return a.print(ca, func(w io.Writer) { a.caTable(w, ca) })
		}),
	}
}

// maxNamed bounds the agents that are named in a line.
const maxNamed = 10

func (a *app) caTable(w io.Writer, ca client.CA) {
	fields(w, "Trust domain", ca.TrustDomain, "Trust bundle", fmt.Sprintf("version %d", ca.BundleVersion),
		"Stored by", plural(ca.Have, "connected agent"), "Not yet by", named(ca.Behind), "Away", named(ca.Away))
	fmt.Fprintln(w)
	var rows [][]string
	for _, r := range ca.Roots {
		rows = append(rows, []string{r.Pin, ago(a.now(), r.NotBefore), ago(a.now(), r.NotAfter)})
	}
	table(w, "ROOT MADE ENDS", rows)
	fmt.Fprintln(w)
	rows = nil
	for _, i := range ca.Issuers {
		made, late := "", ""
		if i.Rotation > 0 {
			made = strconv.FormatUint(i.Rotation, 10)
		}
		if i.Late {
			late = "yes"
		}
		rows = append(rows, []string{i.Replica, ago(a.now(), i.NotAfter), made, late, i.Root})
	}
	table(w, "ISSUER ENDS ROTATION LATE-COMERS ROOT", rows)
	a.rotationTable(w, ca.Rotation)
}

// phases say what happens in each.
var phases = map[string]string{
	"making":   "the new root is being made",
	"trusting": "replicas and agents learn to trust both roots",
	"issuing":  "replicas get new issuing authorities",
	"renewing": "agents renew their certificates",
	"finished": "finished",
}

func (a *app) rotationTable(w io.Writer, r *client.Rotation) {
	if r == nil {
		return
	}
	fmt.Fprintln(w)
	fields(w, "Rotation", fmt.Sprintf("%d, of the %s", r.Number, map[bool]string{true: "root", false: "intermediates"}[r.Kind == "root"]),
		"Phase", phaseText(r), "Since", ago(a.now(), r.Since), "Root key on", r.Holder, "Old root", r.Old, "New root", r.New,
		"Old root revoked", map[bool]string{true: "yes"}[r.RevokeOld],
		"Waits for replicas", named(r.Replicas), "Silent replicas", named(r.Silent), "Waits for agents", named(r.Agents),
		"Away, old root", named(r.Away))
	if next := nextStep(r); next != "" {
		fmt.Fprintf(w, "\n%s\n", next)
	}
}

func phaseText(r *client.Rotation) string {
	if text := phases[r.Phase]; text != "" && text != r.Phase {
		return r.Phase + ": " + text
	}
	return r.Phase
}

// nextStep is what the operator can do, empty for nothing.
func nextStep(r *client.Rotation) string {
	waits := len(r.Replicas) + len(r.Silent) + len(r.Agents)
	switch {
	case r.Phase == "finished" && r.Kind == "root" && len(r.Away) > 0 && r.RevokeOld:
		return "Agents that were away have to join again."
	case r.Phase == "finished":
		return ""
	case r.Phase == "renewing" && waits+len(r.Away) == 0:
		return "Nobody holds a certificate of the old root any more. Finish it with: tender ca rotate --finish"
	case r.Phase == "renewing" && waits == 0:
		return "Only agents that are away hold certificates of the old root. Wait for them, or: tender ca rotate --finish --force"
	case len(r.Silent) > 0:
		return "It waits at most ten minutes for who does not answer; not at all with: tender ca rotate --force"
	}
	return ""
}

func (a *app) caRotate() *cobra.Command {
	var o client.RotateCA
	var yes bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the trust root, or the replicas' intermediates",
		Long: `Replace the trust root and all below it, or the replicas' intermediates alone.

The root key and its passphrase must lie on a running replica for as long as it
takes, where 'tenderd init' put them (DATA/root). The new root's key is made and
kept there, encrypted. Then all goes by itself, and is shown by 'tender ca show':
agents and replicas learn to trust both roots, each replica makes a new
intermediate, whose key never leaves it, and agents renew. Sessions and tasks are
not touched. Join lines of before work until the end.

The end is yours to say: --finish takes the old root out of the trust bundle. It is
refused while replicas or agents hold certificates of the old root that have not
ended; with --force it is done all the same. Agents that were away for all of it
come back by themselves: replicas show them the old root's signature, and they
prove the key that they have. Replicas that were away have to be removed and join
again; people and programs with a certificate of the old root log in again.

--revoke-old is for an old root whose key has leaked: nothing that it signed is
shown any more, and agents that were away for the rotation have to join again.

Replicas replace their intermediates by themselves two weeks before they end, if
the root key is there then.`,
		Example: "  tender ca rotate\n  tender ca show\n  tender ca rotate --finish\n  tender ca rotate --intermediate --yes",
		Args:    arity(0, 0, ""),
	}
	cmd.RunE = a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
		if o.Intermediate && (o.Finish || o.RevokeOld) {
			return hint("give --intermediate without --finish and --revoke-old", "a rotation of intermediates finishes by itself and leaves the root")
		}
		if !yes {
			now, err := c.CA(ctx)
			if err != nil {
				return err
			}
			if err := a.confirm(rotateText(o), now.TrustDomain); err != nil {
				return err
			}
		}
		ca, err := c.RotateCA(ctx, o)
		if err != nil {
			return err
		}
		return a.print(ca, func(w io.Writer) { a.caTable(w, ca) })
	})
	cmd.Flags().BoolVar(&o.Intermediate, "intermediate", false, "the replicas' intermediates alone")
	cmd.Flags().BoolVar(&o.Finish, "finish", false, "end the rotation: the old root is trusted no more")
	cmd.Flags().BoolVar(&o.Force, "force", false, "wait for nobody that does not answer")
	cmd.Flags().BoolVar(&o.RevokeOld, "revoke-old", false, "show nothing of the old root: who was away joins again")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return cmd
}

func rotateText(o client.RotateCA) string {
	text := "The trust root will be replaced, with all certificates below it."
	switch {
	case o.Finish:
		text = "The old root will be trusted no more."
	case o.Intermediate:
		text = "The intermediates of all replicas will be replaced."
	case o.Force:
		text = "The trust root will be replaced, and nobody waited for that does not answer."
	}
	if o.RevokeOld {
		text += " Agents that are away have to join again."
	}
	return text
}

// named lists the first of many.
func named(ids []string) string {
	if len(ids) > maxNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(ids[:maxNamed], ", "), len(ids)-maxNamed)
	}
	return strings.Join(ids, ", ")
}
