#!/bin/bash
# Boots Debian's kernels in an emulator and runs `exeat doctor` and tests on them. `make vm` runs it without arguments.
#
#     tests/vm/run.sh [--kernel 6.1|6.12]... [--seconds n] [pytest argument ...]
#     tests/vm/run.sh --kernel 6.1 tests/e2e/test_launch.py -k loopback
#
# The machine's root is this host's file system (9p, writable), with a copy of this tree, its virtual environment and
# the system's Python laid over it in memory: a start of Python takes half a minute over 9p, and edits here do not show
# there. It has no network but its own. Needs virtme-ng in the environment: pip install --group vm.
# Exits with the status of the first run that failed. A run that does not end within its seconds is one.
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD
kernels=() seconds=2700 selection=()
while [ $# -gt 0 ]; do
  case $1 in
  --kernel) kernels+=("$2") && shift 2 ;;
  --seconds) seconds=$2 && shift 2 ;;
  *) selection+=("$1") && shift ;;
  esac
done
[ ${#kernels[@]} -gt 0 ] || kernels=(6.1 6.12)
# What depends on the kernel; without what starts fifty programs in forty seconds, which an emulated machine cannot.
names="escape or second_hello or test_limits.py or undeclared or grant_names or grant_connect or test_judge"
names+=" or hello_question"
[ ${#selection[@]} -gt 0 ] || selection=(-q tests/bpf tests/e2e -k "($names) and not come_and_come_back")

PATH=$root/build/vm/tools/bin:$root/.venv/bin:/usr/sbin:/sbin:$PATH
command -v vng >/dev/null || { echo "$0: virtme-ng is missing: .venv/bin/pip install virtme-ng" >&2; exit 2; }

run_on() { # <version> <command> [argument ...]: its status
  local version=$1 suite kernel release directory machine status
  shift
  case $version in
  6.1) suite=bookworm ;;
  6.12) suite=bookworm-backports ;;
  *) echo "$0: no kernel $version: 6.1 and 6.12 are known" >&2 && return 2 ;;
  esac
  kernel=$("$root/tests/vm/fetch.sh" "$suite") || return 2
  release=$(basename "$kernel")
  directory=$(mktemp -d "$kernel/run.XXXXXX")
  touch "$directory/output"
  tar -C / -cf "$directory/tree.tar" --exclude="${root#/}/build" --exclude="${root#/}/.git" \
    --exclude="site-packages/mypy*" --exclude="*__mypyc*" --exclude=site-packages/pip \
    "${root#/}" usr/lib/python3.11 usr/lib/python3/dist-packages/bcc usr/include/linux usr/include/asm-generic
  [ $? -le 1 ] || return 2 # 1: a file changed while it was read
  echo "== Linux $release: $*"
  # Some seconds more than the command has, for booting and for the emulator to end.
  timeout --kill-after=10 $((seconds + 120)) vng --disable-kvm --force-9p --rw --cpus 2 --memory 3G --verbose \
    --run "$kernel/boot/vmlinuz-$release" \
    --exec "$(printf '%q ' "$root/tests/vm/inside.sh" "$directory" "$seconds" "$@")" </dev/null 2>&1 |
    cat >"$directory/console" & # through a pipe: vng truncates what it writes to if that is a file
  machine=$!
  tail --pid="$machine" -n +1 -f "$directory/output"
  wait "$machine"
  if [ ! -s "$directory/status" ]; then
    echo "== Linux $release: the machine did not boot, died, or did not end within $seconds s; its last words:"
    tail -n 40 "$directory/console"
    return 125
  fi
  status=$(cat "$directory/status")
  rm -r "$directory"
  case $status in
  0) echo "== Linux $release: passed" ;;
  124 | 137) echo "== Linux $release: did not end within $seconds s" ;;
  *) echo "== Linux $release: failed with status $status" ;;
  esac
  return "$status"
}

failed=0
for version in "${kernels[@]}"; do
  run_on "$version" tests/vm/suite.sh "${selection[@]}"
  status=$?
  [ "$failed" != 0 ] || failed=$status
done
exit "$failed"
