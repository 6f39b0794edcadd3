#!/usr/bin/env bash
# Makes what plane and agents show each other, and prints it as Secrets for `kubectl apply --server-side -f -`:
#   certificates.sh [--namespace exeat] [--service exeat-plane] [--directory exeat-certificates] NODE...
# A private authority for the plane, one for nodes, a certificate for each node by its name, and the key by which the
# plane signs what it sends. All of it is kept in the directory, for the next node: run it again with all names, and
# what is there already is used as it is. Who has the directory speaks for the plane: keep it as such a thing is kept.
# Server-side, because kubectl would else write all of it, keys and all, into an annotation, which is full at 190 nodes. A
# Secret is full at 1,100.
set -euo pipefail

namespace=exeat service=exeat-plane directory=exeat-certificates
while [ $# -gt 0 ]; do
  case $1 in
    --namespace) namespace=$2; shift 2 ;;
    --service) service=$2; shift 2 ;;
    --directory) directory=$2; shift 2 ;;
    -*) echo "certificates.sh: there is no flag $1: --namespace, --service, --directory" >&2; exit 2 ;;
    *) break ;;
  esac
done
if [ $# -eq 0 ]; then
  echo "certificates.sh: name the nodes, as in: certificates.sh \$(kubectl get nodes -o name | cut -d/ -f2)" >&2
  exit 2
fi
for node in "$@"; do
  case $node in
    *[!a-z0-9.-]* | [.-]*) echo "certificates.sh: '$node' is no node's name" >&2; exit 2 ;;
  esac
done

umask 077
mkdir -p "$directory"
cd "$directory"

# authority NAME: an authority of its own, for ten years.
authority() {
  [ -e "$1.crt" ] && return
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=exeat $1" \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$1.key" -out "$1.crt" 2>/dev/null
}

# certificate FILE AUTHORITY USAGE NAMES: for two years, while there is none that lasts for another 60 days.
certificate() {
  openssl x509 -in "$1.crt" -noout -checkend 5184000 >/dev/null 2>&1 && return
  local name=${4%%,*}
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf 'subjectAltName=critical,DNS:%s\nextendedKeyUsage=%s\nkeyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\n' \
    "${4//,/,DNS:}" "$3" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -days 730 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm -f "$1.csr" "$1.ext"
  echo "certificates.sh: made $1.crt for $name" >&2
}

# secret NAME KEY=FILE...
secret() {
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\ntype: Opaque\ndata:\n' "$1" "$namespace"
  shift
  local pair
  for pair in "$@"; do
    printf '  %s: %s\n' "${pair%%=*}" "$(base64 -w0 <"${pair#*=}")"
  done
}

authority plane-ca
authority agents-ca
certificate plane plane-ca serverAuth "$service.$namespace.svc,$service,$service.$namespace.svc.cluster.local,localhost"
[ -e signing.key ] || openssl genpkey -algorithm ed25519 -out signing.key
openssl pkey -in signing.key -pubout -out plane.pub
files=(ca.crt=plane-ca.crt plane.pub=plane.pub)
for node in "$@"; do
  certificate "node-$node" agents-ca clientAuth "$node"
  files+=("$node.crt=node-$node.crt" "$node.key=node-$node.key")
done

secret exeat-plane-tls tls.crt=plane.crt tls.key=plane.key agents-ca.crt=agents-ca.crt
secret exeat-plane-signing signing.key=signing.key
secret exeat-agent-tls "${files[@]}"
