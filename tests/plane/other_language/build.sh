#!/usr/bin/env bash
# Makes the Go agent out of the protos: build.sh DIRECTORY. Offline: Debian's packages are all it needs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
protos=$(cd "$here/../../../proto" && pwd)
to=$1
package=exeat.dev/v1
map=
for proto in "$protos"/exeat/v1/*.proto; do map+="M${proto#"$protos"/}=$package,"; done
mkdir -p "$to/src"
protoc -I"$protos" --go_out="$to/src" --go_opt="${map%,}" --go-grpc_out="$to/src" --go-grpc_opt="${map%,}" "$protos"/exeat/v1/*.proto
GO111MODULE=off GOFLAGS='' GOPATH="$to:/usr/share/gocode" GOCACHE="$to/cache" go build -o "$to/agent" "$here/agent.go"
rm -rf "$to/cache"
