package fleet

import (
	"fmt"
	"strings"
	"time"

	"github.com/tenderfleet/tender/gpu"
)

// TaskState is where a task is in its life. The names are Mesos's.
type TaskState int

const (
	// TaskStaging: accepted by the control plane, not yet started.
	TaskStaging TaskState = iota + 1
	// TaskStarting: the agent prepares the image and the container.
	TaskStarting
	TaskRunning
	// TaskKilling: TERM was sent, the grace period runs.
	TaskKilling
	TaskFinished // exited with code 0
	TaskFailed   // another exit code, a signal, or out of memory
	TaskKilled   // ended because somebody asked
	TaskError    // the description is invalid
	TaskLost     // disappeared without an exit status
	TaskDropped  // the launch never reached the agent
	TaskGone     // the agent is back without it
	TaskGoneByOperator
	// TaskUnreachable: the agent does not answer; it may come back.
	TaskUnreachable
	// TaskUnknown answers a reconciliation about a task nobody knows.
	TaskUnknown
)

var stateNames = map[TaskState]string{
	TaskStaging: "TASK_STAGING", TaskStarting: "TASK_STARTING", TaskRunning: "TASK_RUNNING",
	TaskKilling: "TASK_KILLING", TaskFinished: "TASK_FINISHED", TaskFailed: "TASK_FAILED",
	TaskKilled: "TASK_KILLED", TaskError: "TASK_ERROR", TaskLost: "TASK_LOST",
	TaskDropped: "TASK_DROPPED", TaskGone: "TASK_GONE", TaskGoneByOperator: "TASK_GONE_BY_OPERATOR",
	TaskUnreachable: "TASK_UNREACHABLE", TaskUnknown: "TASK_UNKNOWN",
}

// String returns Mesos's name, such as "TASK_RUNNING".
func (s TaskState) String() string {
	if n, ok := stateNames[s]; ok {
		return n
	}
	return fmt.Sprintf("TASK_STATE_%d", int(s))
}

// ParseTaskState is the inverse of String.
func ParseTaskState(name string) (TaskState, error) {
	for s, n := range stateNames {
		if n == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown task state %q", name)
}

// Terminal reports whether a task in s has ended for good and holds no
// resources. Unreachable and unknown are not terminal.
func (s TaskState) Terminal() bool {
	switch s {
	case TaskFinished, TaskFailed, TaskKilled, TaskError, TaskLost, TaskDropped, TaskGone, TaskGoneByOperator:
		return true
	default:
		return false
	}
}

// rank orders the states an agent goes through; a task never goes back.
func (s TaskState) rank() int {
	switch {
	case s == TaskStaging:
		return 1
	case s == TaskStarting:
		return 2
	case s == TaskRunning:
		return 3
	case s == TaskKilling:
		return 4
	case s.Terminal():
		return 5
	default:
		return 0
	}
}

// CanFollow reports whether a task in state from may be seen in state s next.
// States go forward only; a terminal state is final. Unreachable may come
// from any live state and be followed by any the agent reports on its return.
func (s TaskState) CanFollow(from TaskState) bool {
	switch {
	case from.Terminal():
		return false
	case from == TaskUnreachable:
		return s != TaskStaging && s != TaskUnknown
	case s == TaskUnreachable:
		return true
	default:
		return s.rank() >= from.rank() && s != from
	}
}

// Network is a task's view of the network.
type Network string

const (
	// NetworkNone has loopback only: the safe default.
	NetworkNone Network = "none"
	// NetworkHost shares the agent's network.
	NetworkHost Network = "host"
)

// TaskSpec is what the user wants to run. It is copied into the replicated
// state, to the agent and into the agent's checkpoint as it is.
type TaskSpec struct {
	// Name is for people; ids are made from it.
	Name string
	// Image is a full reference ("docker.io/library/busybox:1.36").
	Image string
	// Command replaces the image's entry point and arguments when not empty.
	// It is executed as it stands; no shell is put in between.
	Command []string
	Env     map[string]string
	WorkDir string // empty: the image's
	// User is "uid", "uid:gid" or a name of the image; empty: the image's.
	User     string
	ReadOnly bool // mount the image read-only
	Network  Network
	// PIDs limits processes and threads; 0 means DefaultPIDs.
	PIDs int64
	// KillGrace is how long the task has between TERM and KILL; 0 means
	// DefaultKillGrace.
	KillGrace time.Duration
	Labels    map[string]string
	// Health, when not nil, decides whether the running task is healthy, and
	// ends one that is not. Check, when not nil, is only reported.
	Health, Check *Check
	// MaxCompletion is how long the task may run, from its first TASK_RUNNING
	// on; then it is stopped and has failed. 0: as long as it wants.
	MaxCompletion time.Duration
	// Limits are how much more than its resources the task may take.
	Limits Limits
	// Restart says what happens when the task crashes, Disconnect what when its
	// agent has no contact.
	Restart    Restart
	Disconnect Disconnect
	// Exclusive: the task and its replacements never run at the same time.
	Exclusive bool
}

// Grace is the time between TERM and KILL where nobody asks for another.
func (s *TaskSpec) Grace() time.Duration {
	if s.KillGrace > 0 {
		return s.KillGrace
	}
	return DefaultKillGrace
}

// DefaultPIDs bounds a fork bomb without hindering a training job.
const DefaultPIDs = 4096

// DefaultKillGrace is Mesos's executor shutdown grace period.
const DefaultKillGrace = 5 * time.Second

// Standing is how a task stands against others when there is not room for all.
type Standing struct {
	// Priority: the higher one is placed first, and may preempt revocable tasks
	// of a lower one. 0 is what everybody has.
	Priority int
	// Revocable tasks may be ended, with their grace period, for a higher
	// priority or for the guarantee of a role.
	Revocable bool
}

// MaxPriority bounds priorities, above and below 0.
const MaxPriority = 1000

// CheckStanding reports what is wrong with a standing.
func CheckStanding(s Standing) error {
	if s.Priority < -MaxPriority || s.Priority > MaxPriority {
		return fmt.Errorf("priority %d: use %d to %d", s.Priority, -MaxPriority, MaxPriority)
	}
	return nil
}

// GPURequest says which GPUs a task needs.
type GPURequest struct {
	Count int
	// MinMemoryMB, when not 0, is the least memory of each device in MiB.
	MinMemoryMB int64
	// Model, when not empty, must be a part of the device's product name,
	// letter case ignored.
	Model string
}

// Accepts reports whether a device will do, its health aside.
func (q GPURequest) Accepts(d gpu.Device) bool {
	return d.MemoryMB >= q.MinMemoryMB &&
		(q.Model == "" || strings.Contains(strings.ToLower(d.Model), strings.ToLower(q.Model)))
}

// Need is what one unit of a demand takes.
type Need struct {
	CPUs, Mem, Disk Scalar
	GPU             GPURequest
	// Site, when not empty, is where the agent must stand.
	Site Site
	// Agent, when not empty, names the only agent that will do.
	Agent AgentID
	// Labels are labels an agent must carry.
	Labels map[string]string
}

// Reason says where a status came from, in Mesos's words without the prefix
// REASON_; empty for ordinary progress.
type Reason string

const (
	ReasonInvalidOffers  Reason = "INVALID_OFFERS"
	ReasonTaskInvalid    Reason = "TASK_INVALID"
	ReasonReconciliation Reason = "RECONCILIATION"
	ReasonMemoryLimit    Reason = "CONTAINER_LIMITATION_MEMORY"
	ReasonLaunchFailed   Reason = "CONTAINER_LAUNCH_FAILED"
	ReasonAgentLost      Reason = "AGENT_DISCONNECTED"
	ReasonAgentRemoved   Reason = "AGENT_REMOVED"
	ReasonCommandFailed  Reason = "COMMAND_EXECUTOR_FAILED"
	ReasonGroupInvalid   Reason = "TASK_GROUP_INVALID"
	ReasonRemoved        Reason = "FRAMEWORK_REMOVED"
	ReasonPreempted      Reason = "CONTAINER_PREEMPTED"
	ReasonHealthUpdated  Reason = "TASK_HEALTH_CHECK_STATUS_UPDATED"
	ReasonCheckUpdated   Reason = "TASK_CHECK_STATUS_UPDATED"
	ReasonMaxCompletion  Reason = "MAX_COMPLETION_TIME_REACHED"
	ReasonAgentRestarted Reason = "AGENT_RESTARTED"
)

// Reasons that Mesos has no word for.
const (
	// ReasonRestarted: the agent starts the task again, as its restart policy says.
	ReasonRestarted Reason = "TASK_RESTARTED"
	// ReasonPutOff: what a start needs is not there; the agent tries again.
	ReasonPutOff Reason = "TASK_START_PUT_OFF"
	// ReasonCutOff: the agent had no contact for as long as the task's
	// disconnect policy allows, and stopped it.
	ReasonCutOff Reason = "TASK_STOPPED_WITHOUT_CONTACT"
	// ReasonReplaced: of the task and its replacement, the other one was kept.
	ReasonReplaced Reason = "TASK_REPLACED"
)

// Status is one observed state of a task.
type Status struct {
	Task  TaskID
	State TaskState
	// Time is when the observer saw it, on the observer's clock.
	Time    time.Time
	Message string
	Reason  Reason
	// ExitCode, Signal and OOM tell how a task ended; ExitCode is -1 while it
	// has not, or when a signal ended it.
	ExitCode int
	Signal   int
	OOM      bool
	// Health and Check are what the task's checks said last.
	Health TaskHealth
	Check  CheckResult
	// Restarts is how often the agent has started the task again. Of those that
	// it tells of, some in between may be missing; this counts them all.
	Restarts int
}

// CanFollow reports whether s is news of a task in a state, of which last was
// reported: another state that may follow, another result of a running task's
// checks, another restart, or why a start is put off. A task that is started
// again keeps its state: states never go back.
func (s Status) CanFollow(state TaskState, last Status) bool {
	if s.State == state && (state == TaskRunning || state == TaskStarting) {
		return s.Health != last.Health || s.Check != last.Check || s.Restarts > last.Restarts ||
			s.Reason == ReasonPutOff && s.Message != last.Message
	}
	return s.State.CanFollow(state)
}

// Passing reports whether s is news of a task whose state it leaves as it was:
// what a check has found, a restart, a start that is put off. Of many such
// only some are kept.
func (s Status) Passing() bool {
	return s.Checked() || s.Reason == ReasonRestarted || s.Reason == ReasonPutOff
}

// Checked reports whether s tells nothing but what a check has found.
func (s Status) Checked() bool {
	return s.State == TaskRunning && (s.Reason == ReasonHealthUpdated || s.Reason == ReasonCheckUpdated)
}

// StatusUpdate is a Status on its way from the agent, delivered at least once
// and in order per task.
type StatusUpdate struct {
	ID UpdateID
	// Seq numbers the updates of one task from 1 without gaps.
	Seq    uint64
	Status Status
}

// Assignment is one task that an agent is to have.
type Assignment struct {
	Task      TaskID
	Spec      TaskSpec
	Resources Resources
	// Seq is the number of updates of this task that the control plane has
	// committed. An agent without a record of a task whose Seq is not 0 has
	// lost it: it reports TASK_LOST and never runs the task a second time.
	Seq uint64
	// Kill: the task is to be stopped with the grace period.
	Kill      bool
	KillGrace time.Duration
}

// Desired tells an agent what it is to hold: all of it (Full) or what changed
// after generation Base. An agent refuses one with an older term or
// generation than it has seen, and a partial one whose Base is not its own
// generation.
type Desired struct {
	Term        uint64
	Generation  uint64
	Base        uint64
	Full        bool
	Assignments []Assignment
	// Echo repeats the newest stamp of the agent that the leader has seen. It is
	// true of a set that is refused for its generation, too.
	Echo uint64
}
