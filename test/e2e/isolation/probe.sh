# Runs in a task and prints what is in its reach. The arguments are numbers of
# devices, as in 4:61, to make nodes of.

# why: the last part of an error, as in "sh: can't open x: Permission denied".
why() { echo "${1##*: }"; }

attempt() { # mode path
	case $1 in
	r) : <"$2" ;;
	w) : >>"$2" ;;
	rw) : <>"$2" ;;
	esac
}

numbers() { # the device number of a path, in hexadecimal
	stat -c '%t:%T' "$1"
}

open() { # path
	for mode in r w rw; do
		result=OPEN
		error=$( (attempt $mode "$1") 2>&1) || result=$(why "$error")
		echo "open|$(numbers "$1")|$mode $1|$result"
	done
}

grep '^CapEff' /proc/self/status | tr -d '\t' | tr : '|'
env | sort | sed -n 's/^\(NVIDIA_[^=]*\)=/env|\1|/p'

find /dev -type c -o -type b | sort | while read -r node; do
	echo "node|$node|$(numbers "$node")"
done

mkdir -p /tmp/made
for number in "$@"; do
	result=MADE
	error=$(mknod "/tmp/made/$number" c "${number%:*}" "${number#*:}" 2>&1) || result=$(why "$error")
	echo "mknod|$number|$result"
done

# A task that shares the machine waits until the other is there too.
while [ -d /gate ] && [ ! -e /gate/open ]; do usleep 10000; done

for node in /dev/nvidia* /hostdev/* /tmp/made/*; do
	[ ! -c "$node" ] || open "$node"
done

library=/usr/local/nvidia/lib64/libcuda.so.1
if [ -e $library ]; then
	result=WRITABLE
	error=$( (: >>$library) 2>&1) || result=$(why "$error")
	echo "library|$result"
fi
echo complete
