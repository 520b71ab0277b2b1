package arch

type (
	direction struct {
		who []string
		may []string
		why string
	}
	owner struct {
		what  []string
		who   []string
		tests bool
		why   string
	}
	companion struct{ what, why string }
)

// directions says what each package of this module may import of this module.
// The first line that names a package decides; tests of a package may import
// more (see imports.go).
var directions = []direction{
	{
		[]string{"./gpu"},
		nil,
		"the nouns of GPUs are a leaf: everybody may import them",
	},
	{
		[]string{"./gpu/..."},
		[]string{"./gpu/..."},
		"GPUs know nothing of fleets",
	},
	{
		[]string{"./pki/..."},
		[]string{"./pki/..."},
		"identities are a leaf: transport is built on them, never the other way round",
	},
	{
		[]string{"./transport/fleet"},
		[]string{"./gpu"},
		"the nouns are a leaf: a noun that imports a mechanism drags it into every package",
	},
	{
		[]string{"./transport/wire/..."},
		[]string{"./transport/wire/...", "./transport/fleet", "./gpu"},
		"the wire translates nouns, over any stream: it needs no sessions and no identities",
	},
	{
		[]string{"./transport/..."},
		[]string{"./transport", "./transport/transporttest", "./pki/..."},
		"sessions carry bytes: what these mean is for wire and those who call it",
	},
	{
		[]string{"./controlplane/state"},
		[]string{"./transport/fleet", "./gpu"},
		"replicas must agree on Apply, so it hangs on nothing but nouns",
	},
	{
		[]string{"./controlplane/allocator"},
		[]string{"./transport/fleet", "./gpu", "./controlplane/state"},
		"the allocator is arithmetic over a state",
	},
	{
		[]string{"./controlplane/leader"},
		[]string{"./transport/fleet", "./gpu", "./controlplane/state", "./controlplane/allocator"},
		"the offer cycle runs in the simulation: events in, actions out",
	},
	{
		[]string{"./controlplane/framework"},
		[]string{"./transport/fleet", "./gpu", "./controlplane/state", "./controlplane/leader"},
		"built-in frameworks speak the same events as outsiders: no door to the allocator",
	},
	{
		[]string{"./controlplane/rollout"},
		[]string{"./transport/fleet", "./gpu", "./controlplane/state"},
		"how a version reaches the fleet is decided without one, so that weeks fit into a table",
	},
	{
		[]string{"./controlplane/client/..."},
		[]string{"./controlplane/client/...", "./transport/fleet", "./gpu", "./pki"},
		"the client is linked into the command line: no server behind it",
	},
	{
		[]string{"./controlplane/..."},
		[]string{"./controlplane/...", "./transport/...", "./pki/...", "./gpu"},
		"agents are remote: speak to them over transport",
	},
	{
		[]string{"./agent/reports"},
		[]string{"./transport/fleet", "./gpu"},
		"the order of reports is pure, so that it runs in the simulation",
	},
	{
		[]string{"./agent/linkpolicy"},
		[]string{"./transport/fleet", "./gpu"},
		"what a link may cost is decided without one, so that a month fits into a table",
	},
	{
		[]string{"./agent/upgrade"},
		[]string{"./transport/fleet"},
		"what to do about a new version is decided without a disk or a link, so that every cut fits into a table",
	},
	{
		[]string{"./agent/gate"},
		nil,
		"whether a version is sound is decided from events and times, so that half an hour fits into a table",
	},
	{
		[]string{"./agent/lifecycle"},
		[]string{"./transport/fleet", "./gpu", "./agent/reports"},
		"the life of a task is pure, so that it runs in the simulation",
	},
	{
		[]string{"./agent/..."},
		[]string{"./agent/...", "./transport/...", "./pki/...", "./gpu/..."},
		"the control plane is remote: speak to it over transport",
	},
	{
		[]string{"./cmd/internal/..."},
		[]string{"./cmd/internal/...", "./pki"},
		"what the programs have in common is small: it is linked into all of them; they all have the leaf pki",
	},
	{
		[]string{"./cmd/tender/..."},
		[]string{"./cmd/tender/...", "./cmd/internal/...", "./controlplane/client/...", "./transport", "./transport/fleet", "./gpu", "./pki/..."},
		"the command line is a client of the API like any other",
	},
	{
		[]string{"./cmd/tenderd/..."},
		[]string{"./cmd/tenderd/...", "./cmd/internal/...", "./controlplane/...", "./transport/...", "./pki/...", "./gpu"},
		"a replica holds nothing of an agent",
	},
	{
		[]string{"./cmd/tender-log"},
		[]string{"./agent/tasklog", "./transport/fleet", "./gpu"},
		"one is started for every task: it must stay small",
	},
	{
		[]string{"./cmd/tender-agent/..."},
		[]string{"./cmd/tender-agent/...", "./cmd/internal/...", "./agent/...", "./transport/...", "./pki/...", "./gpu/..."},
		"an agent holds nothing of the control plane",
	},
	{
		[]string{"./packaging/..."},
		[]string{"./cmd/..."},
		"what packages say about the programs is made from their commands",
	},
	{
		[]string{"./test/..."},
		[]string{"./..."},
		"tests may look at everything",
	},
}

// owners says which packages alone may import something from outside. Where
// tests is true the owners' tests and all others' may, too.
var owners = []owner{
	{
		[]string{"github.com/NVIDIA/go-nvml/..."},
		[]string{"./gpu/nvml/..."},
		false,
		"cgo and a library that may be missing stay behind one package",
	},
	{
		[]string{"github.com/NVIDIA/nvidia-container-toolkit/...", "tags.cncf.io/..."},
		[]string{"./gpu/...", "./agent/containerd/..."},
		false,
		"what makes a GPU visible is decided in gpu and applied by the executor",
	},
	{
		[]string{"github.com/smallstep/...", "go.step.sm/..."},
		[]string{"./pki/authority/..."},
		false,
		"one signing path: what can mint certificates is behind one wrapper that checks every leaf",
	},
	{
		[]string{"github.com/opencontainers/runtime-spec/..."},
		[]string{"./gpu/isolate/...", "./agent/containerd/...", "./cmd/tender-agent/...", "./test/..."},
		false,
		"a container's spec is written where the container is made; the agent's main joins the two ends",
	},
	{
		[]string{"github.com/containerd/...", "github.com/opencontainers/..."},
		[]string{"./agent/containerd/...", "./test/..."},
		false,
		"others speak to an executor.Executor, so containerd can be left out of their tests",
	},
	{
		[]string{"google.golang.org/protobuf/...", "google.golang.org/grpc/..."},
		[]string{"./transport/wire/...", "./controlplane/api/mesosv1/..."},
		false,
		"generated types are a wire format, not nouns: translate at the edge, in wire and in mesosv1",
	},
	{
		[]string{"github.com/hashicorp/yamux"},
		[]string{"./transport"},
		false,
		"sessions hide what carries them: it is the second carrier",
	},
	{
		[]string{"github.com/hashicorp/..."},
		[]string{"./controlplane/registrar/..."},
		false,
		"Raft stays behind Propose, Read and Leadership",
	},
	{
		[]string{"github.com/quic-go/quic-go/testutils/simnet"},
		[]string{"./transport/transporttest/...", "./test/..."},
		true,
		"a simulated network is for tests",
	},
	{
		[]string{"github.com/quic-go/..."},
		[]string{"./transport"},
		false,
		"sessions hide what carries them: there is a second carrier",
	},
	{
		[]string{"aead.dev/minisign"},
		[]string{"./agent/install", "./controlplane/client/release"},
		true,
		"whose package to trust is decided in one place on either side",
	},
	{
		[]string{"go.etcd.io/..."},
		[]string{"./agent/checkpoint/..."},
		false,
		"one file and one writer",
	},
	{
		[]string{"github.com/spf13/..."},
		[]string{"./cmd/...", "./packaging/..."},
		false,
		"flags and config files end where run begins: the rest takes a struct",
	},
	{
		[]string{"github.com/fxamacker/cbor/..."},
		[]string{"./controlplane/registrar/...", "./agent/checkpoint/..."},
		true,
		"what is on disk has one encoder per format",
	},
	{
		[]string{
			"github.com/anishathalye/porcupine/...", "github.com/google/go-cmp/...", "github.com/google/go-containerregistry/...",
			"github.com/rogpeppe/go-internal/...", "pgregory.net/rapid/...",
		},
		[]string{"./test/..."},
		true,
		"a library for tests",
	},
	{
		[]string{"math/rand"},
		nil, false,
		"use math/rand/v2 with a source you were given, so that a run can be replayed",
	},
	{
		[]string{"github.com/stretchr/testify/...", "github.com/onsi/..."},
		nil, false,
		"testing and go-cmp suffice",
	},
}

// links says what a program must not be built from, at any depth.
var links = []struct {
	who string
	not []string
	why string
}{
	{
		"./cmd/tender",
		[]string{"github.com/smallstep/...", "go.step.sm/...", "github.com/hashicorp/raft/...", "github.com/containerd/...", "google.golang.org/protobuf/..."},
		"the command line is a small client",
	},
	{
		"./cmd/tender-agent",
		[]string{"github.com/smallstep/...", "go.step.sm/...", "github.com/hashicorp/raft/...", "./controlplane/..."},
		"what is on an edge machine cannot sign and has no replicated state",
	},
	{
		"./cmd/tenderd",
		[]string{"./agent/...", "github.com/containerd/...", "github.com/NVIDIA/..."},
		"a replica needs no container runtime and no GPU",
	},
}

// core are the packages without I/O: values in, values out. The whole fleet
// runs from one seed because they are.
var core = []string{
	"./controlplane/state",
	"./controlplane/allocator",
	"./controlplane/leader",
	"./controlplane/framework",
	"./controlplane/rotation",
	"./controlplane/rollout",
	"./agent/lifecycle",
	"./agent/reports",
	"./agent/linkpolicy",
	"./agent/upgrade",
	"./agent/gate",
	"./transport/fleet",
	"./gpu",
}

// impure are the packages of the standard library that a core package must not
// import.
var impure = []struct {
	what   string
	except []string
	why    string
}{
	{"os/...", nil, "the caller does the I/O"},
	{"io/fs", nil, "the caller does the I/O"},
	{"net/...", nil, "the caller does the I/O"},
	{"syscall", nil, "the caller does the I/O"},
	{"database/...", nil, "the caller does the I/O"},
	{"log/...", nil, "return what happened; the caller says it"},
	{"sync/...", nil, "a core has one caller at a time"},
	{"context", []string{"./gpu"}, "a core never waits; gpu only names the Devices interface"},
	{"math/rand/...", nil, "take drawn values as arguments"},
	{"crypto/rand", nil, "take drawn values as arguments"},
	{"runtime/...", nil, "a core does not know where it runs"},
	{"unsafe", nil, "replicas of different kinds must agree"},
}

// clocks are the functions of package time that a core must not call.
var clocks = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}

// integral are the packages in which floating point is banned: the language
// lets a compiler fuse a multiplication and an addition, so that replicas on
// different machines would disagree about shares.
var integral = []string{"./controlplane/allocator", "./controlplane/state", "./controlplane/leader"}

// documented are the packages whose every exported name has a comment.
var documented = append([]string{"./transport/...", "./pki/...", "./gpu/...", "./agent/executor"}, core...)

// The sizes at which a file has become two.
const (
	maxLines     = 500
	maxMainLines = 60
	maxModules   = 20
)

// companions are modules that do not count against maxModules, each with the
// reason why it is there.
var companions = []companion{
	{"golang.org/x/...", "the Go project's own"},
	{"github.com/containerd/containerd/api", "containerd's messages"},
	{"github.com/containerd/errdefs/...", "containerd's kinds of errors"},
	{"github.com/containerd/log", "silences containerd's client"},
	{"github.com/sirupsen/logrus", "silences containerd's client"},
	{"github.com/containerd/platforms", "containerd's names of platforms"},
	{"github.com/containerd/typeurl/...", "containerd's events"},
	{"github.com/distribution/reference", "containerd's names of images"},
	{"github.com/opencontainers/...", "containerd's specs"},
	{"github.com/hashicorp/go-hclog", "Raft's logger"},
	{"github.com/hashicorp/raft-wal", "Raft's log store"},
	{"go.step.sm/crypto", "smallstep's keys and tokens"},
	{"tags.cncf.io/...", "the edits that nvidia-container-toolkit makes"},
}
