package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/client/release"
	"github.com/tenderfleet/tender/transport/fleet"
)

func (a *app) upgradeCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "upgrade",
		Short: "Bring another version of tender-agent to the fleet, ring by ring",
		Long: `Bring another version of tender-agent to the fleet, ring by ring.

Packages are signed with minisign. Agents install what a release key has signed
that they pinned when they joined: add the key before you make join lines. An
agent that joined before has none pinned, and refuses.

Nothing is upgraded by adding a package. A rollout goes through rings of agents,
each of which has to run the version for a while before the next one opens. It
pauses when an agent fails: an agent that does not get along with a version goes
back to the one before by itself.`,
		Example: `  tender upgrade key add minisign.pub
  tender upgrade add tender-agent_0.2.0-1_amd64.deb
  tender upgrade start 0.2.0 --ring canary=site:lab --ring 10% --ring rest
  tender upgrade status --watch`,
	}, a.upgradeKey(), a.upgradeAdd(), a.upgradeList(), a.upgradeRemove(), a.upgradeStart(), a.upgradeStatus(),
		a.upgradeSteer("pause", "Begin with no more agents until it is resumed", `Begin with no more agents until it is resumed.

Agents that are still fetching the package stop; those that install it already go on.`),
		a.upgradeSteer("resume", "Go on with a paused rollout, in spite of the agents that have failed", `Go on with a paused rollout, in spite of the agents that have failed.

They are left alone, and their rings do not wait for them any more; the next
failure pauses the rollout again. To try them again, start another rollout.`),
		a.upgradeSteer("abort", "End the rollout: nobody begins any more", `End the rollout: nobody begins any more.

Agents that are still fetching the package stop; those that install it already go
on. Those that run the version keep it: to bring them back, start a rollout of
the version before with --allow-downgrade.`))
}

func (a *app) upgradeKey() *cobra.Command {
	return group(&cobra.Command{
		Use:   "key",
		Short: "The public keys that packages have to be signed by",
		Long: `The public keys that packages have to be signed by.

Agents pin those of the time when they join, as part of what they are told over
the connection that their join line has verified. A key that is added later
counts for agents that join from then on.`,
		Example: "  tender upgrade key add minisign.pub\n  tender upgrade key ls",
	}, &cobra.Command{
		Use:     "add FILE.pub",
		Short:   "Add a public key of minisign",
		Example: "  tender upgrade key add minisign.pub",
		Args:    arity(1, 1, "FILE.pub"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			text, err := readSmall(args[0])
			if err != nil {
				return err
			}
			if _, err := release.ParseKey(string(text)); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			u, err := c.AddReleaseKey(ctx, client.AddReleaseKey{Key: string(text)})
			return a.printKeys(u, err)
		}),
	}, &cobra.Command{
		Use:     "ls",
		Short:   "List the release keys",
		Example: "  tender upgrade key ls",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			u, err := c.Upgrade(ctx)
			return a.printKeys(u, err)
		}),
	}, &cobra.Command{
		Use:   "rm ID",
		Short: "Remove a release key; agents that have pinned it keep it",
		Long: `Remove a release key; agents that have pinned it keep it.

It is refused while a package is there that the key has signed.`,
		Example: "  tender upgrade key rm 0123456789ABCDEF",
		Args:    arity(1, 1, "ID"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			u, err := c.RemoveReleaseKey(ctx, args[0])
			return a.printKeys(u, err)
		}),
	})
}

func (a *app) printKeys(u client.Upgrade, err error) error {
	if err != nil {
		return err
	}
	return a.print(u.Keys, func(w io.Writer) {
		var rows [][]string
		for _, k := range u.Keys {
			rows = append(rows, []string{k.ID, ago(a.now(), k.Added), k.Key, k.Comment})
		}
		table(w, "KEY ADDED PUBLIC_KEY COMMENT", rows)
	})
}

// readSmall reads a file of a key or a signature.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was read
	data, err := io.ReadAll(io.LimitReader(f, fleet.MaxSignature+1))
	if err == nil && len(data) > fleet.MaxSignature {
		err = fmt.Errorf("%s: it is too large for a key or a signature", name)
	}
	return data, err
}

func (a *app) upgradeAdd() *cobra.Command {
	return &cobra.Command{
		Use:   "add FILE.deb...",
		Short: "Add signed packages of tender-agent, one for each architecture",
		Long: `Add signed packages of tender-agent, one for each architecture.

The signature lies beside each file, as FILE.deb.minisig: minisign -Sm FILE.deb
writes it. It is verified here and again by the replicas. A package counts once
a majority of the replicas has it; the others fetch it from them.`,
		Example: "  tender upgrade add tender-agent_0.2.0-1_amd64.deb tender-agent_0.2.0-1_arm64.deb",
		Args:    arity(1, -1, "FILE.deb"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			now, err := c.Upgrade(ctx)
			if err != nil {
				return err
			}
			if len(now.Keys) == 0 {
				return hint("add the public key of yours: tender upgrade key add minisign.pub", "this fleet has no release key, so no package can be verified")
			}
			var keys []release.Key
			for _, k := range now.Keys {
				keys = append(keys, release.Key{ID: k.ID, Text: k.Key})
			}
			signatures := make([][]byte, len(args))
			for i, name := range args { // all are looked at before one is sent
				if signatures[i], err = checkPackage(name, keys); err != nil {
					return err
				}
			}
			added := []client.Package{}
			for i, name := range args {
				p, err := a.sendPackage(ctx, c, name, signatures[i])
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				added = append(added, p)
			}
			return a.print(added, func(w io.Writer) { a.packageTable(w, added) })
		}),
	}
}

// checkPackage verifies a file and reads its fields, and returns the signature.
func checkPackage(name string, keys []release.Key) ([]byte, error) {
	signature, err := readSmall(name + ".minisig")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint("sign it: minisign -Sm "+name, "%s has no signature beside it (%s.minisig)", name, name)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was read
	if _, err := release.Check(f, string(signature), keys); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if _, err := release.Read(f); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return signature, nil
}

// reader counts what is read of a file.
type reader struct {
	io.ReadCloser
	n    int64
	tell func(int64)
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	r.tell(r.n)
	return n, err
}

func (a *app) sendPackage(ctx context.Context, c *client.Client, name string, signature []byte) (client.Package, error) {
	info, err := os.Stat(name)
	if err != nil {
		return client.Package{}, err
	}
	tell := a.progress("sent")
	p, err := c.AddPackage(ctx, info.Size(), signature, func() (io.ReadCloser, error) {
		f, err := os.Open(name)
		return &reader{ReadCloser: f, tell: tell}, err
	})
	tell(-1)
	return p, err
}

func (a *app) packageTable(w io.Writer, list []client.Package) {
	var rows [][]string
	for _, p := range list {
		rows = append(rows, []string{
			p.Version, p.Arch, sizeText(p.Size), p.Key, ago(a.now(), p.Added), fmt.Sprintf("%d/%d", len(p.Replicas), p.Of), p.SHA256,
		})
	}
	table(w, "VERSION ARCH SIZE SIGNED_BY ADDED REPLICAS SHA256", rows)
}

func (a *app) upgradeList() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the packages of tender-agent that the replicas have",
		Long: `List the packages of tender-agent that the replicas have.

REPLICAS says how many of them have the file, as far as the leader has heard; the
others fetch it.`,
		Example: "  tender upgrade ls",
		Args:    arity(0, 0, ""),
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			u, err := c.Upgrade(ctx)
			if err != nil {
				return err
			}
			return a.print(u.Packages, func(w io.Writer) { a.packageTable(w, u.Packages) })
		}),
	}
}

func (a *app) upgradeRemove() *cobra.Command {
	return &cobra.Command{
		Use:     "rm VERSION",
		Short:   "Remove the packages of a version from the replicas",
		Example: "  tender upgrade rm 0.1.0",
		Args:    arity(1, 1, "VERSION"),
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			u, err := c.RemovePackages(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(u.Packages, func(w io.Writer) { a.packageTable(w, u.Packages) })
		}),
	}
}
