#!/bin/bash
# Fetches a Debian kernel and, where the system has none, the emulator, into build/vm. Installs nothing.
#
#     tests/vm/fetch.sh bookworm             # 6.1
#     tests/vm/fetch.sh bookworm-backports   # 6.12
#
# Prints the directory of the kernel. Where packages come from is whatever this machine's own Debian sources say, with
# the suite's name replaced. Run again, it downloads only what is not there yet, or newer.
set -euo pipefail

suite=${1:?which suite: bookworm or bookworm-backports}
here=$(cd "$(dirname "$0")/../.." && pwd)/build/vm
apt=$here/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$here/tools/bin" "$here/debs"

# One stanza's source for all the suites: the main one's own, without its lines for updates, plus backports.
write_sources() {
  local found
  found=$(grep -ls '^Suites:.*bookworm' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -1 || true)
  if [ -n "$found" ]; then
    sed 's/^\(Suites:.*\)bookworm-updates/\1bookworm-backports/' "$found" >"$apt/vm.sources"
    grep -q bookworm-backports "$apt/vm.sources" ||
      sed -i '0,/^Suites: *bookworm\b/s//Suites: bookworm bookworm-backports/' "$apt/vm.sources"
    echo "$apt/vm.sources"
  elif grep -qs '^deb .* bookworm ' /etc/apt/sources.list; then
    sed -n 'p; s/^\(deb .*\) bookworm /\1 bookworm-backports /p' /etc/apt/sources.list >"$apt/vm.list"
    echo "$apt/vm.list"
  else
    echo "$0: this machine's apt sources name no Debian bookworm, so there is nowhere to take its kernels from" >&2
    exit 1
  fi
}

options=(-qq -o "Dir::Etc::sourcelist=$(write_sources)" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
[ -n "$(find "$apt/lists" -maxdepth 1 -name '*Packages*' -mmin -720)" ] || apt-get "${options[@]}" update >&2

newest=linux-image-amd64 # bookworm's own has its newest in bookworm-security
[ "$suite" = bookworm ] || newest+=/$suite
package=$(apt-cache "${options[@]}" --no-all-versions show "$newest" |
  sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -1)
[ -n "$package" ] || { echo "$0: $suite has no linux-image-amd64" >&2; exit 1; }
release=${package#linux-image-}
kernel=$here/$release
if [ ! -e "$kernel/complete" ]; then
  (cd "$here/debs" && rm -f "$package"_*.deb && apt-get "${options[@]}" download "$package" >&2)
  rm -rf "$kernel" && mkdir "$kernel"
  dpkg -x "$here/debs/$package"_*.deb "$kernel"
  rm "$here/debs/$package"_*.deb
fi

# What virtme-ng calls, from the system where it has them, else unpacked and reached through little wrappers.
needed=()
command -v qemu-system-x86_64 >/dev/null || needed+=(qemu-system-x86)
command -v busybox >/dev/null || needed+=(busybox-static)
[ -x /usr/sbin/depmod ] || [ -x /sbin/depmod ] || needed+=(kmod)
if [ ${#needed[@]} -gt 0 ] && [ ! -e "$here/tools/complete" ]; then
  apt-get "${options[@]}" -y --no-install-recommends --download-only install "${needed[@]}" >&2
  for deb in "$apt"/cache/archives/*.deb; do dpkg -x "$deb" "$here/tools/root"; done
  rm "$apt"/cache/archives/*.deb
  cat >"$here/tools/bin/qemu-system-x86_64" <<WRAPPER
#!/bin/sh
root=$here/tools/root
export LD_LIBRARY_PATH=\$root/usr/lib/x86_64-linux-gnu:\$root/lib/x86_64-linux-gnu
exec \$root/usr/bin/qemu-system-x86_64 \\
  -L \$root/usr/share/qemu -L \$root/usr/share/seabios -L \$root/usr/lib/ipxe/qemu "\$@"
WRAPPER
  for name in depmod modprobe; do ln -sf "$here/tools/root/bin/kmod" "$here/tools/bin/$name"; done
  ln -sf "$here/tools/root/bin/busybox" "$here/tools/bin/busybox"
  chmod +x "$here/tools/bin/qemu-system-x86_64"
  touch "$here/tools/complete"
fi

if [ ! -e "$kernel/complete" ]; then
  PATH=$here/tools/bin:/usr/sbin:/sbin:$PATH depmod -a -b "$kernel" "$release"
  touch "$kernel/complete"
fi
echo "$kernel"
