#!/bin/bash
# Runs inside the virtual machine, as its root: mounts what a Debian host has mounted, then runs the given command.
#
#     tests/vm/inside.sh <directory> <seconds> <command> [argument ...]
#
# The emulator's exit status is the machine's, not the command's, and its console mixes what the kernel says into what the
# command says. So both are left in the directory: `status` and `output`.
set -u
directory=$1 seconds=$2
shift 2
exec >"$directory/output" 2>&1
cd "$(dirname "$0")/../.." || exit 1
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
mountpoint -q /sys/fs/bpf || mount -t bpf -o mode=700 none /sys/fs/bpf
mount -t tmpfs none /tmp # what is there on the host is neither needed nor to be written to
ip link set lo up
echo 1 >/proc/sys/kernel/panic_on_oops # an oops is a failed run, never a passed one
tools=$PWD/build/vm/tools/bin
if [ ! -x /sbin/modprobe ] && [ -x "$tools/modprobe" ]; then
  echo "$tools/modprobe" >/proc/sys/kernel/modprobe
  PATH=$PATH:$tools
fi
# The tree is the host's: nothing is to be written into it from here.
export PATH=$PWD/.venv/bin:/usr/sbin:/sbin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/tmp
export PYTEST_ADDOPTS="-p no:cacheprovider ${PYTEST_ADDOPTS:-}"

timeout --kill-after=10 "$seconds" "$@"
status=$?
echo "$status" >"$directory/status"
sync
exit "$status"
