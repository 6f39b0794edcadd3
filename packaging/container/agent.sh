#!/bin/sh
# Begins a command of exeat's in a container as if on the node: `exeat-agent agent` with the settings, `exeat-agent detach`.
set -eu

# The settings are the same text for every node; `${NODE_NAME}` in them is this node. Kubernetes allows nothing in a
# node's name that sed could misread; somebody else might. But a node may be called 123, 1e3 or null, which are no texts to
# YAML: what has the name in it, and no quotation marks, gets them.
settings=/etc/exeat/exeat.yaml
if [ -n "${NODE_NAME:-}" ] && [ -e "$settings" ]; then
  case $NODE_NAME in
    *[!a-z0-9.-]*) echo "NODE_NAME is '$NODE_NAME': only small letters, digits, dots and hyphens" >&2; exit 2 ;;
  esac
  name='[$][{]NODE_NAME[}]'
  plain="[^][\"' {},]*$name[^][\"' {},]*"
  sed -E -e "s|^( *(- +)*([^\"': ]+: +)?)($plain)\$|\1'\4'|" -e "s/$name/$NODE_NAME/g" "$settings" >/tmp/exeat.yaml
  settings=/tmp/exeat.yaml
fi

# A container sees cgroups as if its own were the root of all. exeat judges those of the whole node, and names them as the
# node does: it goes where the node's first process is, or its first kernel thread, where nobody may look at the former.
# That needs the node's PID namespace, CAP_SYS_PTRACE and CAP_SYS_ADMIN.
first=/proc/1/ns/cgroup
readlink "$first" >/dev/null || first=/proc/2/ns/cgroup

case ${1:-agent} in
  agent) [ $# -eq 0 ] || shift; [ ! -e "$settings" ] || set -- --config "$settings" "$@"; set -- agent "$@" ;;
  detach) shift; [ ! -e "$settings" ] || set -- --config "$settings" "$@"; set -- detach "$@" ;;
esac
exec nsenter --cgroup="$first" -- exeat "$@"
