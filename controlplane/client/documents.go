package client

import (
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Submit asks for a task that runs once. Memory and disk are in MiB, or with a
// unit (see ParseMem).
type Submit struct {
	// Name is for people and begins the id; without one the image's is taken.
	Name      string            `json:"name,omitempty"`
	Image     string            `json:"image"`
	Command   []string          `json:"command,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	WorkDir   string            `json:"workdir,omitempty"`
	User      string            `json:"user,omitempty"`
	ReadOnly  bool              `json:"read_only,omitempty"`
	Network   string            `json:"network,omitempty"`
	PIDs      int64             `json:"pids,omitempty"`
	KillGrace Duration          `json:"kill_grace,omitzero"`
	Role      string            `json:"role,omitempty"`
	CPUs      Amount            `json:"cpus,omitempty"`
	Mem       Amount            `json:"mem,omitempty"`
	Disk      Amount            `json:"disk,omitempty"`
	// GPUs must be a whole number.
	GPUs      Amount `json:"gpus,omitempty"`
	GPUMemory Amount `json:"gpu_memory,omitempty"`
	GPUModel  string `json:"gpu_model,omitempty"`
	Site      string `json:"site,omitempty"`
	Agent     string `json:"agent,omitempty"`
	// Labels are labels that the agent must carry.
	Labels map[string]string `json:"labels,omitempty"`
	// Priority, 0 unless it is said: the higher one is placed first, and may
	// preempt revocable tasks of a lower one.
	Priority int `json:"priority,omitempty"`
	// Revocable tasks may be ended for a higher priority or a guarantee.
	Revocable bool `json:"revocable,omitempty"`
	// HealthCheck ends a task that is not healthy; Check only reports.
	HealthCheck *Check `json:"health_check,omitempty"`
	Check       *Check `json:"check,omitempty"`
	// MaxTime is how long the task may run, from its start.
	MaxTime Duration `json:"max_time,omitzero"`
	// CPULimit and MemLimit are what the task may take beyond CPUs and Mem
	// while there is more, or Unlimited.
	CPULimit Amount `json:"cpu_limit,omitempty"`
	MemLimit Amount `json:"mem_limit,omitempty"`
	// Restart is what its agent does when the task crashes; without it, a crash
	// is the end.
	Restart *Restart `json:"restart,omitempty"`
	// Disconnect is what a lost link means to the task; without it, nothing.
	Disconnect *Disconnect `json:"disconnect,omitempty"`
	// Exclusive tasks and their replacements never run at the same time.
	Exclusive bool `json:"exclusive,omitempty"`
}

// Restart is a restart policy: at most Attempts within Interval, each Delay
// after its crash. Mode says what comes then: "fail", the default, or "delay",
// which waits for the next interval.
type Restart struct {
	Attempts int      `json:"attempts"`
	Interval Duration `json:"interval,omitzero"`
	Delay    Duration `json:"delay,omitzero"`
	Mode     string   `json:"mode,omitempty"`
}

// Disconnect is a disconnect policy. After StopAfter without contact the agent
// stops the task; after LostAfter, 75 s or more, the control plane replaces it, if
// Replace.
// Reconcile says which one goes on when the agent is back: "best" (the
// default), "keep_original", "keep_replacement" or "longest_running".
type Disconnect struct {
	StopAfter Duration `json:"stop_after,omitzero"`
	Replace   bool     `json:"replace,omitempty"`
	LostAfter Duration `json:"lost_after,omitzero"`
	Reconcile string   `json:"reconcile,omitempty"`
}

// Task is one task. Env has no values: they may be secrets.
type Task struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Framework string `json:"framework"`
	Role      string `json:"role"`
	State     string `json:"state"` // TASK_RUNNING, ...
	Message   string `json:"message,omitempty"`
	Reason    string `json:"reason,omitempty"`
	ExitCode  *int   `json:"exit_code,omitempty"`
	Signal    int    `json:"signal,omitempty"`
	OOM       bool   `json:"out_of_memory,omitempty"`
	Stopping  bool   `json:"stopping,omitempty"`
	Priority  int    `json:"priority,omitempty"`
	Revocable bool   `json:"revocable,omitempty"`
	// Preempted says for what the task was ended, when it was for another's sake.
	Preempted string     `json:"preempted,omitempty"`
	Waiting   *Waiting   `json:"waiting,omitempty"`
	Agent     string     `json:"agent,omitempty"`
	Submitted time.Time  `json:"submitted"`
	Launched  time.Time  `json:"launched,omitzero"`
	Ended     time.Time  `json:"ended,omitzero"`
	Needs     Needs      `json:"needs"`
	Resources *Resources `json:"resources,omitempty"`
	Image     string     `json:"image"`
	Command   []string   `json:"command,omitempty"`
	Env       []string   `json:"env,omitempty"`
	WorkDir   string     `json:"workdir,omitempty"`
	User      string     `json:"user,omitempty"`
	ReadOnly  bool       `json:"read_only,omitempty"`
	Network   string     `json:"network,omitempty"`
	PIDs      int64      `json:"pids,omitempty"`
	KillGrace Duration   `json:"kill_grace,omitzero"`
	// Health is "healthy" or "unhealthy", or empty while nothing is known.
	Health      string       `json:"health,omitempty"`
	CheckResult *CheckResult `json:"check_result,omitempty"`
	HealthCheck *Check       `json:"health_check,omitempty"`
	Check       *Check       `json:"check,omitempty"`
	MaxTime     Duration     `json:"max_time,omitzero"`
	CPULimit    Amount       `json:"cpu_limit,omitempty"`
	MemLimit    Amount       `json:"mem_limit,omitempty"`
	Restart     *Restart     `json:"restart,omitempty"`
	Disconnect  *Disconnect  `json:"disconnect,omitempty"`
	Exclusive   bool         `json:"exclusive,omitempty"`
	// Restarts is how often its agent has started it again.
	Restarts int `json:"restarts,omitempty"`
	// UnreachableSince is when its agent was last given up, while it still is.
	UnreachableSince time.Time `json:"unreachable_since,omitzero"`
	// Replaces and ReplacedBy are the tasks before and after it in its place.
	Replaces   string   `json:"replaces,omitempty"`
	ReplacedBy string   `json:"replaced_by,omitempty"`
	History    []Status `json:"history,omitempty"`
	// Revision changes whenever something here does that people wait for.
	Revision string `json:"revision"`
}

// Terminal reports whether the task has ended for good.
func (t Task) Terminal() bool {
	s, err := fleet.ParseTaskState(t.State)
	return err == nil && s.Terminal()
}

// Status is one state that a task was in.
type Status struct {
	Time     time.Time `json:"time"`
	State    string    `json:"state"`
	Message  string    `json:"message,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	ExitCode *int      `json:"exit_code,omitempty"`
	Signal   int       `json:"signal,omitempty"`
	OOM      bool      `json:"out_of_memory,omitempty"`
	// Health and CheckResult are what its checks had said then.
	Health      string       `json:"health,omitempty"`
	CheckResult *CheckResult `json:"check_result,omitempty"`
	// Restarts is how often its agent had started it again by then. Where some
	// are missing in a history, this counts them.
	Restarts int `json:"restarts,omitempty"`
}

// Waiting says in one line why a task is not placed. Never: no agent could
// hold it even if nothing else ran there.
type Waiting struct {
	Reason string `json:"reason"`
	Never  bool   `json:"never,omitempty"`
}

// Needs is what a task asked for.
type Needs struct {
	CPUs      Amount            `json:"cpus"`
	Mem       Amount            `json:"mem"`
	Disk      Amount            `json:"disk"`
	GPUs      int               `json:"gpus"`
	GPUMemory int64             `json:"gpu_memory,omitempty"`
	GPUModel  string            `json:"gpu_model,omitempty"`
	Site      string            `json:"site,omitempty"`
	Agent     string            `json:"agent,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// Resources is what an agent has, an offer holds or a task uses. Mem and Disk
// are in MiB, GPUs are UUIDs, Ports are ranges: "31000-32000,33000". Reserved
// says which parts of it are not for everybody.
type Resources struct {
	CPUs     Amount     `json:"cpus"`
	Mem      Amount     `json:"mem"`
	Disk     Amount     `json:"disk"`
	GPUs     []string   `json:"gpus"`
	Ports    string     `json:"ports,omitempty"`
	Custom   Quantities `json:"custom,omitempty"`
	Reserved []Reserved `json:"reserved,omitempty"`
}

// Why says what each agent lacks for a waiting task.
type Why struct {
	Task  string `json:"task"`
	State string `json:"state"`
	// Message is what is known of a task that does not wait, UnreachableSince
	// when its agent was given up.
	Message          string    `json:"message,omitempty"`
	UnreachableSince time.Time `json:"unreachable_since,omitzero"`

	Waiting *Waiting  `json:"waiting,omitempty"`
	Agents  []Refusal `json:"agents"`
}

// Refusal is why one agent cannot hold a task now.
type Refusal struct {
	Agent  string `json:"agent"`
	Reason string `json:"reason"`
}

// States of an agent.
const (
	AgentConnected    = "connected"
	AgentDisconnected = "disconnected"
	AgentUnreachable  = "unreachable" // away for so long that its tasks are too
	AgentRevoked      = "revoked"
	AgentGone         = "gone" // an operator said that it will never be back
)

// Agent is one machine of the fleet.
type Agent struct {
	ID       string            `json:"id"`
	Site     string            `json:"site,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Hostname string            `json:"hostname,omitempty"`
	State    string            `json:"state"`
	// Availability says whether it is offered; empty once it is no part of the
	// fleet any more.
	Availability string `json:"availability,omitempty"`
	// Link is what carries its session: "quic", or "tcp" where UDP is blocked.
	Link   string `json:"link,omitempty"`
	Remote string `json:"remote,omitempty"`
	// Replica is the one that holds the agent's session.
	Replica  string    `json:"replica,omitempty"`
	Version  string    `json:"version,omitempty"`
	Joined   time.Time `json:"joined"`
	Since    time.Time `json:"connected_since,omitzero"`
	LastSeen time.Time `json:"last_seen,omitzero"`
	// CertDaysLeft counts whole days; it is negative once the certificate has
	// ended.
	CertNotAfter time.Time `json:"cert_not_after,omitzero"`
	CertDaysLeft *int      `json:"cert_days_left,omitempty"`
	// Healed is when it last had a new certificate in the place of one that had
	// ended.
	Healed time.Time `json:"healed,omitzero"`
	// Cloned is the last time that another machine used its identity.
	Cloned *Cloned `json:"cloned,omitempty"`
	// ClockOff is what it adds to its machine's clock to have the fleet's time.
	ClockOff Duration  `json:"clock_off,omitzero"`
	Total    Resources `json:"total"`
	// Used is what tasks hold; what is neither used nor free is on offer.
	Used        Resources  `json:"used"`
	Free        *Resources `json:"free,omitempty"`
	GPUs        []GPU      `json:"gpus"`
	Tasks       []string   `json:"tasks"`
	Drain       *Drain     `json:"drain,omitempty"`
	Maintenance *Window    `json:"maintenance,omitempty"`
	Readings    *Readings  `json:"readings,omitempty"`
	// Unsettled: the state was restored from a snapshot, and the agent may run
	// tasks that it does not know. Orphans are those that it has spoken of.
	Unsettled bool     `json:"unsettled,omitempty"`
	Orphans   []Orphan `json:"orphans,omitempty"`
}

// Cloned is what is known of another machine with an agent's identity.
type Cloned struct {
	At    time.Time `json:"at"`
	Addr  string    `json:"addr,omitempty"`
	Text  string    `json:"text"`
	Times int       `json:"times"`
}

// Readings is what an agent last read off its machine.
type Readings struct {
	Time       time.Time `json:"time"`
	CPUPercent int       `json:"cpu_percent"`
	FreeMem    int64     `json:"free_mem"`
	FreeDisk   int64     `json:"free_disk"`
	Running    int       `json:"running"`
	Spooled    int       `json:"spooled"`
	// Runtime is what is wrong with the container runtime, empty when nothing.
	Runtime string `json:"runtime,omitempty"`
	// Link is what the link to the control plane has carried this month.
	Link *LinkUse `json:"link,omitempty"`
	// Settings is what is wrong with the agent's settings, empty when nothing.
	Settings string `json:"settings,omitempty"`
	// Upgrade is how far an upgrade of the agent is, or how the last one ended.
	Upgrade *AgentUpgrade `json:"upgrade,omitempty"`
}

// LinkUse is in bytes of payload on the agent's socket, both ways, by purpose.
type LinkUse struct {
	Month     string `json:"month"` // of UTC
	Total     int64  `json:"total"`
	Keepalive int64  `json:"keepalive"`
	Readings  int64  `json:"readings"`
	Updates   int64  `json:"updates"`
	Images    int64  `json:"images"`
	Logs      int64  `json:"logs"`
	// Budget is what the month may use; 0 is no bound.
	Budget int64 `json:"budget,omitempty"`
	// State says why only states and kills travel now; empty when all does.
	State string `json:"state,omitempty"`
}

// GPU is one device, whole or a MIG slice.
type GPU struct {
	UUID    string      `json:"uuid"`
	Model   string      `json:"model"`
	Memory  int64       `json:"memory"` // MiB
	Compute string      `json:"compute,omitempty"`
	Driver  string      `json:"driver,omitempty"`
	Parent  string      `json:"parent,omitempty"`
	Profile string      `json:"profile,omitempty"`
	Health  string      `json:"health"`
	Reason  string      `json:"reason,omitempty"`
	Task    string      `json:"task,omitempty"`
	Reading *GPUReading `json:"reading,omitempty"`
}

// GPUReading is a device's momentary state.
type GPUReading struct {
	UtilPercent  int   `json:"util_percent"` // -1: not told
	MemoryUsed   int64 `json:"memory_used"`
	TemperatureC int   `json:"temperature_c"`
	PowerMW      int64 `json:"power_mw"`
}

// Offer is a lease that is out.
type Offer struct {
	ID        string            `json:"id"`
	Framework string            `json:"framework"`
	Role      string            `json:"role"`
	Agent     string            `json:"agent"`
	Site      string            `json:"site,omitempty"`
	Hostname  string            `json:"hostname,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Resources Resources         `json:"resources"`
	GPUs      []GPU             `json:"gpus"`
	Expires   time.Time         `json:"expires"`
}

// Replica is one member of the control plane as the asked one sees it.
type Replica struct {
	ID          string    `json:"id"`
	Addr        string    `json:"addr"`
	Voter       bool      `json:"voter"`
	Leader      bool      `json:"leader"`
	Self        bool      `json:"self"`
	LastContact time.Time `json:"last_contact,omitzero"`
	// The leader alone knows the rest of the others: how many entries they lack,
	// since when they have been healthy without a break, and their disks.
	Lag          uint64       `json:"lag,omitempty"`
	HealthySince time.Time    `json:"healthy_since,omitzero"`
	Version      string       `json:"version,omitempty"`
	Capability   uint64       `json:"capability,omitempty"`
	Disk         *ReplicaDisk `json:"disk,omitempty"`
}

// ReplicaDisk is the disk of a replica's log. Low: too little is free to lead.
// Fault is why nothing can be written, empty while it can.
type ReplicaDisk struct {
	Free  uint64 `json:"free"`
	Low   bool   `json:"low,omitempty"`
	Fault string `json:"fault,omitempty"`
}

// Replicas is the control plane as the asked replica sees it.
type Replicas struct {
	Self     string    `json:"self"`
	Leader   string    `json:"leader,omitempty"`
	Term     uint64    `json:"term"`
	Replicas []Replica `json:"replicas"`
}

// CreateToken asks for a join token. Kind is agent unless given; Site and
// Labels are for agents, Roles and AllRoles for the kinds of principals.
type CreateToken struct {
	Kind     string            `json:"kind,omitempty"`
	Site     string            `json:"site,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Roles    []string          `json:"roles,omitempty"`
	AllRoles bool              `json:"all_roles,omitempty"`
	Uses     int               `json:"uses,omitempty"`
	TTL      Duration          `json:"ttl,omitzero"`
}

// Token is a join token. Line is the whole join line; only the answer to
// CreateToken has it, for nobody stores the secret in it.
type Token struct {
	ID       string            `json:"id"` // the first digits of the secret's hash
	Kind     string            `json:"kind"`
	Site     string            `json:"site,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Roles    []string          `json:"roles,omitempty"`
	AllRoles bool              `json:"all_roles,omitempty"`
	Uses     int               `json:"uses_left"`
	Created  time.Time         `json:"created"`
	Expires  time.Time         `json:"expires"`
	Line     string            `json:"line,omitempty"`
}

// Version is what a program was built from.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go,omitempty"`
}

// The answers that hold lists. Omitted counts what a limit left out.
type (
	TaskList struct {
		Tasks   []Task `json:"tasks"`
		Omitted int    `json:"omitted,omitempty"`
	}
	AgentList struct {
		Agents []Agent `json:"agents"`
	}
	OfferList struct {
		Offers  []Offer        `json:"offers"`
		Inverse []InverseOffer `json:"inverse_offers"`
	}
	TokenList struct {
		Tokens []Token `json:"tokens"`
	}
)

// Stop asks for the end of a task. Without Grace the task's own is taken.
type Stop struct {
	Grace *Duration `json:"grace,omitempty"`
}

// LogFrame is one line of a log stream: a piece of output, the end, or what
// went wrong.
type LogFrame struct {
	Stream string   `json:"stream,omitempty"` // "stdout", "stderr"
	Data   []byte   `json:"data,omitempty"`
	End    bool     `json:"end,omitempty"`
	Error  *Problem `json:"error,omitempty"`
}
