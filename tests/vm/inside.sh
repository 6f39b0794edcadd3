#!/bin/bash
# Runs inside the virtual machine, as its root: mounts what a Debian host has mounted, then runs the given command.
#
#     tests/vm/inside.sh <directory> <seconds> <command> [argument ...]
#
# The emulator's exit status is the machine's, not the command's, and its console mixes what the kernel says into what
# the command says. So both are left in the directory: `status` and `output`.
set -u
directory=$1 seconds=$2
shift 2
exec >"$directory/output" 2>&1
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
tools=$root/build/vm/tools/bin
mount -t tmpfs -o size=70% none /mnt && tar -C /mnt -xf "$directory/tree.tar" || exit 1
mkdir -p "/mnt$root/build" && mount --bind "$root/build" "/mnt$root/build"
system=(usr/lib/python3.11 usr/lib/python3/dist-packages/bcc usr/include/linux usr/include/asm-generic) # run.sh packs them
for part in "${system[@]}" "${root#/}"; do
  mount --rbind "/mnt/$part" "/$part" || exit 1
done
cd "$root" || exit 1

mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
mountpoint -q /sys/fs/bpf || mount -t bpf -o mode=700 none /sys/fs/bpf
mount -t tmpfs none /tmp # what is there on the host is neither needed nor to be written to
ip link set lo up
echo 1 >/proc/sys/kernel/panic_on_oops # an oops is a failed run, never a passed one
if [ ! -x /sbin/modprobe ] && [ -x "$tools/modprobe" ]; then
  echo "$tools/modprobe" >/proc/sys/kernel/modprobe
  PATH=$PATH:$tools
fi
export PATH=$root/.venv/bin:/usr/sbin:/sbin:$PATH HOME=/tmp

timeout --signal=INT --kill-after=30 "$seconds" "$@"
status=$?
echo "$status" >"$directory/status"
sync
exit "$status"
