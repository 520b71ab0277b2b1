#!/usr/bin/env bash
# Proves on a machine with NVIDIA GPUs what the tests on other machines cannot:
# that the inventory is the driver's own, that CUDA works on the libraries that
# a task is given, and that a task reaches its GPUs and no others.
#
# STATE: this script has run against the stand-in driver of test/fakenvml only,
# never on a machine with a GPU. Until somebody has, what it would show is not
# proven. Not covered at all: MIG slices, XIDs of a real fault, MPS, containers
# under runc's systemd driver after `systemctl daemon-reload`.
#
#   sudo test/hardware/gpu.sh
#
# It needs root, a loaded driver, gcc, Go, busybox-static and a running
# containerd, but no network: the image is made of this machine's own glibc. It
# starts its own `tenderd dev` in a containerd namespace of its own, so it may
# run beside an agent as long as that one's tasks leave the GPUs alone.
#
# Variables: TENDER_BIN    directory with tender, tenderd and tender-agent;
#                          built into bin/ if not set
#            CONTAINERD    containerd's socket
#            DRIVER_ROOT   where the driver is installed, / by default
#            AGENT_ARGS    further arguments for the agent
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
CONTAINERD=${CONTAINERD:-/run/containerd/containerd.sock}
DRIVER_ROOT=${DRIVER_ROOT:-/}
namespace=tender-hardware-$$
image=example.org/tests/hardware:1
failures=0

say() { printf '\n== %s\n' "$*"; }
die() { printf 'gpu.sh: %s\n' "$*" >&2; exit 1; }
pass() { printf 'ok    %s\n' "$*"; }
fail() { printf 'FAIL  %s\n' "$*"; failures=$((failures + 1)); }
same() { # what, want, got
	if [ "$2" = "$3" ]; then pass "$1"; else fail "$1: want '$2', got '$3'"; fi
}
uuids() { grep -oE 'GPU-[0-9a-fA-F-]{36}' | sort -u || true; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dev=
finish() {
	code=$?
	trap - EXIT
	if [ -n "$dev" ]; then
		for task in $(tasks); do tender task stop --grace 0s "$task" >/dev/null 2>&1 || true; done
		wait_for 'the tasks are gone' no_containers || true
		kill "$dev" 2>/dev/null || true
		wait "$dev" 2>/dev/null || true
		wait_for 'containerd has forgotten the namespace' forget || true
		rmdir /sys/fs/cgroup/{,*/}"$namespace" /run/containerd/runc/"$namespace" 2>/dev/null || true
		[ "$code" = 0 ] || tail -n 20 "$work/dev.log" >&2
	fi
	rm -rf "$work"
	exit "$code"
}
wait_for() { # what, command...
	local what=$1 end=$((SECONDS + 60))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || { echo "gpu.sh: not within 60 s: $what" >&2; return 1; }
		sleep 0.1
	done
}
tasks() { tender ps -o json 2>/dev/null | sed -n 's/^ *"id": "\(.*\)",$/\1/p'; }
forget() {
	ctr -a "$CONTAINERD" -n "$namespace" images rm --sync "$image" >/dev/null 2>&1 || true
	ctr -a "$CONTAINERD" namespaces rm "$namespace" >/dev/null 2>&1
}
no_containers() { [ -z "$(ctr -a "$CONTAINERD" -n "$namespace" containers ls -q)" ]; }

say 'what is needed'
[ "$(id -u)" = 0 ] || die 'run it as root'
for c in nvidia-smi ctr gcc busybox go; do
	command -v "$c" >/dev/null || die "there is no $c here (for all but the driver: make deps)"
done
[ -S "$CONTAINERD" ] || die "there is no containerd at $CONTAINERD"
listed=$(nvidia-smi -L)
! grep -q 'MIG ' <<<"$listed" || die 'a card is in MIG mode, which this script does not cover'
cards=$(uuids <<<"$listed")
[ -n "$cards" ] || die "nvidia-smi lists no GPU: $listed"
echo "$listed"

say 'build'
if [ -z "${TENDER_BIN:-}" ]; then
	make build
	TENDER_BIN=$PWD/bin
fi
PATH=$TENDER_BIN:$PATH
trap finish EXIT

say 'an image of this machine'"'"'s glibc, with a program that uses CUDA'
gcc -O1 -Wall -o "$work/cuda" test/hardware/cuda.c -ldl
libraries() { # what the program and the driver need of this machine
	local root=${DRIVER_ROOT%/}
	for f in "$work/cuda" "$root"/usr/bin/nvidia-smi "$root"/usr/lib/*/libcuda.so.1 "$root"/usr/lib*/libcuda.so.1; do
		[ ! -e "$f" ] || ldd "$f" 2>/dev/null || true
	done | grep -oE '/[^ ]+\.so[^ ]*' | grep -vE 'lib(cuda|nvidia)' | sort -u
}
files=(-file "$work/cuda=/bin/cuda")
while read -r f; do files+=(-file "$f"); done < <(libraries)
go run ./test/image/cmd -o "$work/image.tar" -name "$image" -env NVIDIA_VISIBLE_DEVICES=all "${files[@]}"

say 'the probe'"'"'s inventory is the driver'"'"'s'
coproc probe { tender-agent nvml-probe; }
exec {ask}>&"${probe[1]}" {answer}<&"${probe[0]}"
probe_pid=$!
echo '{"ID":1,"Op":"open","Open":{"DriverRoot":"'"$DRIVER_ROOT"'","DevRoot":"'"$DRIVER_ROOT"'"}}' >&"$ask"
echo '{"ID":2,"Op":"inventory"}' >&"$ask"
while read -r -t 30 line <&"$answer"; do
	case $line in *'"ID":2'*) break ;; *Reason*) die "the probe: $line" ;; esac
done
exec {ask}>&- {answer}<&-
kill "$probe_pid" 2>/dev/null || true
same 'the probe lists the cards that nvidia-smi lists' "$cards" "$(uuids <<<"$line")"

say 'a control plane and an agent'
agent_args=(--agent-arg "--namespace=$namespace" --agent-arg "--driver-root=$DRIVER_ROOT")
for a in ${AGENT_ARGS:-}; do agent_args+=(--agent-arg "$a"); done
mkdir "$work/dev"
unset TENDER_SERVER TENDER_CREDENTIALS
export TENDER_SOCKET=$work/dev/tenderd.sock
tenderd dev --dir "$work/dev" --port 7481 --containerd "$CONTAINERD" "${agent_args[@]}" >"$work/dev.log" 2>&1 &
dev=$!
wait_for 'the agent is connected' grep -q '^ready' "$work/dev.log"
ctr -a "$CONTAINERD" -n "$namespace" images import "$work/image.tar" >/dev/null
offered() { [ "$(tender agents -o json | uuids)" = "$cards" ]; }
if wait_for 'the cards are listed' offered; then
	pass 'tender agents lists them too'
else
	fail "tender agents lists $(tender agents -o json | uuids)"
fi
tender agents

# start_task GPUS: starts a task that reports and then stays, as $task.
start_task() {
	local gpus=() script='ls -1 /dev | grep "^nvidia[0-9]" | sed "s/^/node /"; env | grep ^NVIDIA_'
	if [ "$1" -gt 0 ]; then
		gpus=(--gpus "$1")
		script+='; nvidia-smi -L | sed "s/^/smi /"; cuda'
	fi
	task=$(tender run "${gpus[@]}" --mem 4G --name hardware "$image" -- sh -c "$script; echo done; sleep 3600")
	wait_for "task $task has reported" reported
	output=$(tender task logs "$task" 2>&1)
	assigned=$(tender task show -o json "$task" | uuids)
	sed 's/^/      /' <<<"$output"
}
reported() { tender task logs "$task" 2>/dev/null | grep -q '^done$'; }

# rules WANTED: what the kernel says to a process in the task's control group
# that opens each card's node; WANTED are the nodes that it must let through.
# Nothing in a task can get hold of the others' nodes, so this looks from
# outside, which is no weaker: the rules are the group's.
rules() {
	local group=/sys/fs/cgroup/devices/$namespace/$task
	[ ! -e /sys/fs/cgroup/cgroup.controllers ] || group=/sys/fs/cgroup/$namespace/$task
	[ -d "$group" ] || { fail "there is no control group $group"; return; }
	for node in "${DRIVER_ROOT%/}"/dev/nvidia[0-9]*; do
		local got
		got=$(LC_ALL=C bash -c 'echo $$ >"$1/cgroup.procs" && (: <>"$2")' - "$group" "$node" 2>&1) && got=open
		if grep -qx "$(basename "$node")" <<<"$1"; then
			same "task $task opens $node" open "$got"
		else
			same "task $task does not open $node" 'Operation not permitted' "${got##*: }"
		fi
	done
}

say 'control: outside of tasks every node opens'
for node in "${DRIVER_ROOT%/}"/dev/nvidia[0-9]*; do
	if (: <>"$node") 2>/dev/null; then pass "$node opens"; else fail "$node does not open: the rest proves nothing"; fi
done

check_task() { # GPUs wanted
	local nodes
	start_task "$1"
	nodes=$(sed -n 's/^node //p' <<<"$output")
	same "the task was assigned $1" "$1" "$(grep -c . <<<"$assigned" || true)"
	same "its /dev has as many cards" "$1" "$(grep -c . <<<"$nodes" || true)"
	same 'its environment asks for none' NVIDIA_VISIBLE_DEVICES=void "$(grep ^NVIDIA_ <<<"$output" || true)"
	if [ "$1" -gt 0 ]; then
		same 'nvidia-smi inside lists those that were assigned' "$assigned" "$(grep ^smi <<<"$output" | uuids)"
		same 'CUDA inside finds them and computes' "$assigned" "$(grep ^cuda <<<"$output" | uuids)"
	fi
	rules "$nodes"
}

say 'a task with one GPU'
check_task 1
first=$task
if [ "$(wc -l <<<"$cards")" -gt 1 ]; then
	say 'a second task, while the first one runs'
	held=$assigned
	check_task 1
	[ "$assigned" != "$held" ] && pass 'it has another GPU' || fail 'both have the same GPU'
	tender task stop --grace 0s "$task" >/dev/null
fi
say 'a task without GPUs'
check_task 0
say 'a task with all GPUs, once the first one has ended'
tender task stop --grace 0s "$first" >/dev/null
check_task "$(wc -l <<<"$cards")"

say "$failures failures"
[ "$failures" = 0 ]
