#!/usr/bin/env bash
# Makes a bare Debian 12 or Ubuntu 24.04 ready for `make setup`: run it as root, as often as you like. Vagrant and CI do.
#
#     vagrant/provision.sh
#
# Brings what `make setup` cannot bring by itself, and the file systems that a system without systemd has not mounted.
# What is there already stays as it is, and then no package archive is asked.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)

if [ "$(id -u)" -ne 0 ]; then
  echo "provision.sh: installing packages and mounting is root's work: sudo $0" >&2
  exit 1
fi
# shellcheck source=/dev/null
. /etc/os-release
case "$ID $VERSION_ID" in
"debian 12" | "debian 13" | "ubuntu 24.04") ;;
*) echo "provision.sh: made for Debian 12 and Ubuntu 24.04, this is ${PRETTY_NAME:-$ID}: going on" >&2 ;;
esac

# Without certificates pip trusts nobody; without modprobe the kernel loads no veth, tun or vhost when a test asks for one.
"$repository/packaging/install-packages.sh" make git ca-certificates kmod procps

# A container's first image has none, and then `localhost` is a question to the resolver.
[ -e /etc/hosts ] || printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n' >/etc/hosts

# systemd mounts both. Where cgroup2 is mounted somewhere else already, as in the old hybrid layout, that one is taken.
grep -q ' - cgroup2 ' /proc/self/mountinfo || mount -t cgroup2 cgroup2 /sys/fs/cgroup
grep -q ' - bpf ' /proc/self/mountinfo || mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf /sys/fs/bpf

# git refuses a folder of somebody else's, which a shared folder is; the tests ask git which files there are.
if ! git -C "$repository" rev-parse --git-dir >/dev/null 2>&1; then
  git config --system --get-all safe.directory | grep -qxF "$repository" ||
    git config --system --add safe.directory "$repository"
fi

if [ ! -r /sys/kernel/btf/vmlinux ]; then
  echo "provision.sh: this kernel has no type information (/sys/kernel/btf/vmlinux); exeat needs CONFIG_DEBUG_INFO_BTF" >&2
fi
echo "provision.sh: ready; now: make setup"
