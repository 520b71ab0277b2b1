package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenderfleet/tender/pki"
	"github.com/tenderfleet/tender/pki/enroll"
	"github.com/tenderfleet/tender/transport"
)

const maxLine = 8 << 10

func (a *app) loginCommand() *cobra.Command {
	var name string
	var wait time.Duration
	var force bool
	cmd := &cobra.Command{
		Use:   "login [JOIN-LINE]",
		Short: "Become a user of a fleet on this machine",
		Long: `Become a user of a fleet on this machine: an operator, a framework, a reader.

The join line comes from 'tender token create --kind operator'. It is a secret:
without an argument it is read from stdin, so that it need not stand in a
command line. The key is made here and does not leave this machine.

With --token-file a token of 'tender principal create' is stored instead, after
the servers have accepted it; the pin is what they are known by.`,
		Example: `  tender login
  ssh tender-1 sudo tender token create --kind operator | tender login
  tender login --token-file token --server tender-1 --pin sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU`,
		Args: arity(0, 1, ""),
		RunE: a.do(func(ctx context.Context, args []string) error {
			dir := a.credentialDir()
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			if a.settings.tokenFile != "" && len(args) == 0 {
				return a.loginByToken(ctx, dir, force)
			}
			line, err := a.readLine(args)
			if err != nil {
				return err
			}
			if !line.Kind.UsesAPI() {
				return hint("make one for an operator with: tender token create --kind operator", "this join line admits a %s", line.Kind)
			}
			if err := a.keepCredential(dir, force); err != nil {
				return err
			}
			return a.login(ctx, line, cmp.Or(name, a.env["USER"], a.env["LOGNAME"], string(line.Kind)), dir)
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "what to be called (default: the user's name here)")
	cmd.Flags().DurationVar(&wait, "timeout", time.Minute, "how long to try")
	cmd.Flags().BoolVar(&force, "force", false, "replace a credential that still holds")
	return cmd
}

// readLine takes the join line from the argument or from stdin.
func (a *app) readLine(args []string) (pki.JoinLine, error) {
	text := ""
	if len(args) == 1 && args[0] != "-" {
		text = args[0]
	} else {
		if f, ok := a.In.(*os.File); ok {
			if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
				fmt.Fprint(a.Err, "Join line: ")
			}
		}
		s := bufio.NewScanner(io.LimitReader(a.In, maxLine))
		for text == "" && s.Scan() {
			text = strings.TrimSpace(s.Text())
		}
		if err := s.Err(); err != nil {
			return pki.JoinLine{}, fmt.Errorf("read join line: %w", err)
		}
	}
	line, err := pki.ParseJoinLine(text)
	if err != nil {
		return line, hint("make a new one with: tender token create --kind operator", "join line: %w", err)
	}
	return line, nil
}

func (a *app) login(ctx context.Context, line pki.JoinLine, name, dir string) error {
	key, err := pki.NewKey()
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	req, err := enroll.NewRequest(line, key, name)
	if err != nil {
		return err
	}
	reply, err := transport.Enrol(ctx, transport.DialerConfig{Now: a.now}, line, req)
	if err != nil {
		return loginError(err)
	}
	cred, err := reply.Credential(key)
	if err != nil {
		return err
	}
	if err := pki.SaveDir(dir, cred); err != nil {
		return err
	}
	servers := reply.Replicas
	if len(servers) == 0 {
		servers = line.Addrs
	}
	if err := errors.Join(saveServers(dir, servers), forget(dir, tokenFile, pinFile)); err != nil {
		return fmt.Errorf("save servers: %w", err)
	}
	fmt.Fprintf(a.Err, "You are %s until %s. The credential is in %s.\n",
		clean(cred.Identity.String()), cred.Leaf().NotAfter.UTC().Format(time.RFC3339), dir)
	return nil
}

// loginError says what a failed login means. The replica's own refusals do
// that already, and what is said of the clock.
func loginError(err error) error {
	if wrong, ok := errors.AsType[*transport.WrongClockError](err); ok {
		return wrong
	}
	if _, refused := errors.AsType[*enroll.Refusal](err); refused {
		return err
	}
	return hint(transport.Explain(err), "the login failed: %w", err)
}
