#!/usr/bin/env bash
# Installs the Debian packages named as arguments that are missing; asks the archive only if there is one.
# A name that ends in ? may be missing from the archive as well: what needs it says so itself.
set -euo pipefail
missing=() optional=()
for package in "$@"; do
  dpkg-query -W -f '${Status}' "${package%\?}" 2>/dev/null | grep -q 'ok installed' && continue
  case $package in
  *\?) optional+=("${package%\?}") ;;
  *) missing+=("$package") ;;
  esac
done
[ $((${#missing[@]} + ${#optional[@]})) -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "run this as root, or: sudo apt-get install ${missing[*]} ${optional[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
for package in "${optional[@]}"; do
  if apt-get install --simulate -qq "$package" >/dev/null 2>&1; then
    missing+=("$package")
  else
    echo "not in this archive: $package"
  fi
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing: ${missing[*]}"
# A machine that was just made is often busy with updates of its own.
apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null
