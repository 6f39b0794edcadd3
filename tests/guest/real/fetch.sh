#!/bin/bash
# Fetches Debian's kernel for cloud guests into build/guest and unpacks it there. Installs nothing.
#
#     tests/guest/real/fetch.sh
#
# Prints the kernel's directory. It is small, unpacks itself in a moment (LZ4), and knows virtio. Where it comes from is
# whatever this machine's own sources say; without any, the package lists are fetched into build/guest too.
# Run again, it downloads nothing.
set -euo pipefail

here=$(cd "$(dirname "$0")/../../.." && pwd)/build/guest
mkdir -p "$here"

for complete in "$here"/*-cloud-*/complete; do
  [ -e "$complete" ] || continue
  dirname "$complete"
  exit
done

options=(-qq -o APT::Sandbox::User=root)
newest=linux-image-cloud-$(dpkg --print-architecture)
if ! apt-cache show "$newest" >/dev/null 2>&1; then
  mkdir -p "$here/lists/partial" "$here/cache/archives/partial"
  options+=(-o "Dir::State::lists=$here/lists" -o "Dir::Cache=$here/cache")
  apt-get "${options[@]}" update >&2
fi
package=$(apt-cache "${options[@]}" --no-all-versions show "$newest" |
  sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -1) || true
[ -n "$package" ] || { echo "$0: this machine's sources have no $newest" >&2; exit 1; }
kernel=$here/${package#linux-image-}
draft=$(mktemp -d "$here/draft.XXXXXX")
trap 'rm -rf "$draft"' EXIT
(cd "$draft" && apt-get "${options[@]}" download "$package" >&2)
rm -rf "$kernel"
dpkg -x "$draft/$package"_*.deb "$kernel"
touch "$kernel/complete"
echo "$kernel"
