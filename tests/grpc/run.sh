#!/usr/bin/env bash
# Real gRPC clients against examples/greeter: grpcio (Python) and grpcurl (Go). Prints a line a check; exit status 1
# if any failed. What is installed goes into target/grpc and is kept there.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
kept=$root/target/grpc
scratch=$(mktemp -d)
pid=
stop() {
    [ -n "$pid" ] && kill "$pid" 2>/dev/null
    wait 2>/dev/null
    rm -rf "$scratch"
}
trap stop EXIT

python3 -c 'import venv, ensurepip' 2>/dev/null ||
    { apt-get update -q && apt-get install -q -y --no-install-recommends python3 python3-venv; } || exit 1
if [ ! -e "$kept/python/ready" ]; then
    python3 -m venv "$kept/python" && "$kept/python/bin/pip" install -q --disable-pip-version-check \
        grpcio==1.76.0 grpcio-reflection==1.76.0 grpcio-health-checking==1.76.0 &&
        touch "$kept/python/ready" || exit 1
fi
cargo build --locked --manifest-path "$root/Cargo.toml" -p afflux-greeter || exit 1
cd "$scratch" || exit 1
"$root/target/debug/afflux-greeter" node --set grpc.listen=127.0.0.1:0 --set log.format=json 2>log >/dev/null &
pid=$!
for _ in $(seq 300); do
    address=$(sed -n '/gRPC clients are served/s/.*"address":"\([^"]*\)".*/\1/p' log | head -1)
    [ -n "$address" ] && break
    sleep 0.1
done
[ -n "$address" ] || { echo "the greeter did not start:"; cat log; exit 1; }
failed=0
timeout 120 "$kept/python/bin/python" "$root/tests/grpc/client.py" "$address" || failed=1

# The committed numbers are those of the contract.
"$root/target/debug/afflux-greeter" schema proto helloworld.Greeter >printed.proto &&
    diff "$root/examples/greeter/greeter.proto" printed.proto && echo "ok     the committed .proto is up to date" || failed=1

if command -v go >/dev/null; then
    [ -x "$kept/grpcurl" ] || GOBIN=$kept GOFLAGS=-mod=mod go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3 || exit 1
    says() { # says NAME TEXT ARGUMENT…
        local name=$1 text=$2
        shift 2
        if "$kept/grpcurl" -plaintext "$@" >out 2>&1 && grep -q -F "$text" out; then
            echo "ok     grpcurl $name"
        else
            echo "FAILED grpcurl $name:"
            cat out
            failed=1
        fi
    }
    says list helloworld.Greeter "$address" list
    says describe "rpc SayHello ( .helloworld.SayHelloRequest ) returns ( .helloworld.HelloReply );" \
        "$address" describe helloworld.Greeter
    says call "Hello you" -d '{"name":"you"}' "$address" helloworld.Greeter/SayHello
    says stream "Hello you" -d '{"name":"you"}' "$address" helloworld.Greeter/SayHelloStreamReply
else
    echo "       grpcurl is left out: there is no go"
fi
exit $failed
