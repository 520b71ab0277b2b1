package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tenderfleet/tender/agent/lifecycle"
	"github.com/tenderfleet/tender/transport/wire"
)

// ErrLeft: the machine has left its fleet, and nothing of its identity is left.
var ErrLeft = errors.New("this machine has left the fleet")

// ErrNotJoined: the machine belongs to no fleet.
var ErrNotJoined = errors.New("this machine belongs to no fleet")

// leaveAgain is how often the wish is said again: a leader may have died with it.
const leaveAgain = 30 * time.Second

// Leaving is leave.json: the wish that the machine leaves its fleet, and what
// the running agent tells of it. The agent carries it out at any later start,
// too, and takes the file away with its identity.
type Leaving struct {
	// Grace is the longest that a task may take to end; 0: its own time.
	Grace time.Duration `json:"grace"`
	// Seen says that an agent knows of the wish; Connected that it has a session
	// in which to say so.
	Seen, Connected bool
	// Tasks are those that have not ended, Spooled the updates not yet
	// acknowledged.
	Tasks, Spooled int
}

func leaveFile(state string) string { return filepath.Join(state, "leave.json") }

// Leave asks the agent of a state directory to leave its fleet: as the user whom
// the directory belongs to. It returns at once; Left tells how far it is. What
// was asked already stays.
func Leave(state string, grace time.Duration) error {
	if !Joined(state) {
		return ErrNotJoined
	}
	if _, err := readLeaving(state); err == nil {
		return nil
	}
	return writeLeaving(state, Leaving{Grace: grace})
}

// Left tells how far the agent of a state directory is with leaving, and ErrLeft
// once it has left.
func Left(state string) (Leaving, error) {
	l, err := readLeaving(state)
	if errors.Is(err, fs.ErrNotExist) && !Joined(state) {
		return Leaving{}, ErrLeft
	}
	return l, err
}

// Joined reports whether a state directory holds the identity of an agent.
func Joined(state string) bool { return exists(filepath.Join(pkiDir(state), "key.pem")) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Forget takes away the identity and the tasks of a state directory, so that its
// machine can join again. No agent may run on it. The output of tasks stays, and
// is removed when it is old.
func Forget(state string) error {
	// The identity goes first: without it no agent takes up the rest.
	for _, name := range []string{"pki", "pki-previous", "agent.db", "agent.json", joinedKeys, "packages", "install", "leave.json"} {
		if err := os.RemoveAll(filepath.Join(state, name)); err != nil {
			return fmt.Errorf("forget the fleet: %w", err)
		}
	}
	return nil
}

func readLeaving(state string) (l Leaving, err error) {
	data, err := os.ReadFile(leaveFile(state))
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	return l, err
}

func writeLeaving(state string, l Leaving) error {
	data, err := json.Marshal(l)
	if err == nil {
		err = replaceFile(leaveFile(state), data)
	}
	return err
}

// leaving looks for the wish to leave, passes it on, and tells how far it is.
func (a *Agent) leaving(now time.Time) {
	was, err := readLeaving(a.cfg.StateDir)
	if err != nil {
		return // nobody wants to leave
	}
	is := was
	a.mu.Lock()
	l := a.link
	is.Seen, is.Connected, is.Tasks, is.Spooled = true, l != nil, a.running, a.spooled
	again := l != nil && l.peer >= 3 && (l != a.leave.to || now.Sub(a.leave.at) >= leaveAgain)
	if again {
		a.leave.to, a.leave.at = l, now
	}
	a.mu.Unlock()
	if again {
		l.queue(wire.Leave{Grace: is.Grace})
	}
	if !was.Seen {
		a.log.Info("this machine is to leave the fleet", "grace", is.Grace)
	}
	if is != was {
		if err := writeLeaving(a.cfg.StateDir, is); err != nil {
			a.log.Warn("not told how far the leaving is", "error", err)
		}
	}
}

// banned is what a session that ended because this agent was banned comes to:
// ErrLeft if it wanted to leave, and has ended its tasks.
func (a *Agent) banned(ctx context.Context) error {
	a.emit(ctx, lifecycle.Revoked{})
	if !exists(leaveFile(a.cfg.StateDir)) {
		return nil
	}
	for a.unended() {
		if !sleep(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	for range 10 {
		err := a.clear(ctx)
		if err == nil {
			break
		}
		a.log.Warn("containers of ended tasks not removed", "error", err)
		if !sleep(ctx, time.Second) {
			return ctx.Err()
		}
	}
	return ErrLeft
}

// clear removes the containers of ended tasks, which nobody will ask for again.
func (a *Agent) clear(ctx context.Context) error {
	ids, err := a.cfg.Executor.List(ctx)
	for _, id := range ids {
		err = errors.Join(err, a.cfg.Executor.Remove(ctx, id))
	}
	return err
}

// unended reports whether tasks run or are being started.
func (a *Agent) unended() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running > 0
}
