package conf

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// Command is the command config: it checks the settings and shows what holds.
func (d Daemon) Command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Check the settings, or show which hold and where each comes from",
	}
	check := &cobra.Command{
		Use: "check", Short: "Find every mistake in the settings", Args: cobra.NoArgs,
	}
	checkLoad := d.Bind(check, true)
	check.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := checkLoad.Load()
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "the settings are sound; files read: %d\n", len(s.layers))
		return nil
	}
	show := &cobra.Command{
		Use: "show", Short: "Show the settings that hold and where each comes from", Args: cobra.NoArgs,
	}
	output := show.Flags().StringP("output", "o", "table", "how to print: table or json")
	showLoad := d.Bind(show, true)
	show.RunE = func(cmd *cobra.Command, _ []string) error {
		if *output != "table" && *output != "json" {
			return fmt.Errorf("--output %q: use table or json", *output)
		}
		s, broken, err := showLoad.LoadOrLast()
		if err != nil {
			return err
		}
		if broken != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: %v\n", broken)
		}
		return s.print(cmd, *output)
	}
	cmd.AddCommand(check, show)
	return cmd
}

func (s *Settings) print(cmd *cobra.Command, output string) error {
	if output == "json" {
		type entry struct {
			Value  string `json:"value"`
			Source string `json:"source"`
		}
		all := map[string]entry{}
		for _, k := range s.Keys() {
			all[k] = entry{s.Show(k), s.Source(k)}
		}
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(all)
	}
	tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SETTING\tVALUE\tFROM")
	for _, k := range s.Keys() {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", k, s.Show(k), s.Source(k))
	}
	return tw.Flush()
}
