package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/cmd/internal/version"
	"github.com/tenderfleet/tender/controlplane/client"
)

// backupName is what a complete backup is called: the time it was begun, UTC.
const backupName = "20060102T150405Z"

var backupNames = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)

// unfinished begins the name of a backup that is not complete.
const unfinished = ".unfinished-"

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "backup [DIR]", Short: "Write what a new control plane could be made from, and delete what is old", Args: cobra.MaximumNArgs(1),
		Long: "Write what a new control plane could be made from into a directory of its own in\n" +
			"DIR: a snapshot of the state that the trio agrees on, and the root key with its\n" +
			"passphrase where they are still on this machine. Take them off it: whoever has all\n" +
			"three can make himself the control plane. Of complete backups the newest stay.\n" +
			"tenderd-backup.timer does this each day; 'tenderd restore' takes the snapshot.",
		Example: "  tenderd backup\n  tenderd backup /mnt/usb --keep 3",
	}
	load := settings.Bind(cmd, true)
	keep := cmd.Flags().Int("keep", 14, "how many complete backups stay")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		v, _, err := load.LoadOrLast()
		if err != nil {
			return err
		}
		if *keep < 1 {
			return fmt.Errorf("--keep %d: one backup is the least", *keep)
		}
		b := backup{dir: "/var/lib/tender/backup", data: v.GetString("data"), keep: *keep, now: time.Now}
		if len(args) > 0 {
			b.dir = args[0]
		}
		c, err := client.New(client.Config{Socket: v.GetString("socket"), Version: version.Get().Version})
		if err != nil {
			return err
		}
		defer c.Close()
		path, err := b.run(cmd.Context(), func(ctx context.Context, begin func() (io.Writer, error)) error {
			_, err := c.SaveSnapshot(ctx, begin)
			return err
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), path)
		return nil
	}
	return cmd
}

type backup struct {
	dir, data string
	keep      int
	now       func() time.Time
}

// run makes one backup and returns its directory. What is old goes when the new
// one is complete and on the disk, never before.
func (b backup) run(ctx context.Context, save func(context.Context, func() (io.Writer, error)) error) (string, error) {
	name := b.now().UTC().Format(backupName)
	tmp, path := filepath.Join(b.dir, unfinished+name), filepath.Join(b.dir, name)
	if err := errors.Join(os.MkdirAll(b.dir, 0o700), os.RemoveAll(tmp), os.Mkdir(tmp, 0o700)); err != nil {
		return "", fmt.Errorf("make a backup: %w; give a directory that this user can write to", err)
	}
	err := b.fill(ctx, tmp, save)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("make a backup: %w", err), os.RemoveAll(tmp))
	}
	return path, b.prune()
}

func (b backup) fill(ctx context.Context, dir string, save func(context.Context, func() (io.Writer, error)) error) error {
	f, err := os.OpenFile(filepath.Join(dir, "fleet.snap"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()                             //nolint:errcheck // closed below when all went well
	err = save(ctx, func() (io.Writer, error) { // again from the start, when a leader fails half-way
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return f, f.Truncate(0)
	})
	if err = errors.Join(err, f.Sync()); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	for _, name := range []string{"root.key", "passphrase"} {
		data, err := os.ReadFile(filepath.Join(b.data, "root", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // on another replica, or in a safe place
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// prune deletes all but the newest complete backups, and what earlier runs left
// unfinished. It touches nothing else in the directory.
func (b backup) prune() error {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return fmt.Errorf("delete old backups: %w", err)
	}
	var complete, gone []string
	for _, e := range entries {
		switch {
		case e.IsDir() && backupNames.MatchString(e.Name()):
			complete = append(complete, e.Name())
		case e.IsDir() && strings.HasPrefix(e.Name(), unfinished):
			gone = append(gone, e.Name())
		}
	}
	slices.Sort(complete)
	gone = append(gone, complete[:max(0, len(complete)-b.keep)]...)
	var errs []error
	for _, name := range gone {
		errs = append(errs, os.RemoveAll(filepath.Join(b.dir, name)))
	}
	return errors.Join(errs...)
}
