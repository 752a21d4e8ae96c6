#!/usr/bin/env bash
# `promtool check metrics` on what nodes export: of services/flights while its pipeline runs, and of examples/greeter
# with each detail and with the collector of spans gone. Prints a line a check; exit status 1 if any failed.
# promtool is Debian's, kept in target/promtool: the package would start a server if it were installed.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
kept=$root/target/promtool
scratch=$(mktemp -d)
pid=
stop() {
    [ -n "$pid" ] && kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
    pid=
}
trap 'stop; rm -rf "$scratch"' EXIT

promtool=$(command -v promtool || echo "$kept/usr/bin/promtool")
if [ ! -x "$promtool" ]; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    mkdir -p "$kept" && $sudo apt-get update -q &&
        (cd "$scratch" && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb "$kept") || exit 1
fi
"$promtool" --version 2>&1 | head -1
cargo build --locked --manifest-path "$root/Cargo.toml" --workspace --bin flights --bin afflux-greeter || exit 1

failed=0
# checks NAME METRIC… : reads /metrics of the node that runs, which must have these.
checks() {
    local name=$1 metric
    shift
    for _ in $(seq 300); do
        admin=$(sed -n '/"node started"/s/.*"admin":"http:\/\/\([^"]*\)".*/\1/p' "$scratch/log" | head -1)
        [ -n "$admin" ] && break
        sleep 0.1
    done
    [ -n "$admin" ] || { echo "FAILED $name did not start:"; cat "$scratch/log"; failed=1; return; }
    "$during"
    # By bash itself: neither curl nor python has to be there.
    exec 3<>"/dev/tcp/${admin%:*}/${admin##*:}" || { failed=1; return; }
    printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
    sed '1,/^\r$/d' <&3 | tr -d '\r' | grep -v -E '^[0-9a-f]+$' >"$scratch/metrics"
    exec 3>&-
    if "$promtool" check metrics <"$scratch/metrics" >"$scratch/said" 2>&1; then
        echo "ok     $name: $(grep -c -v '^#' "$scratch/metrics") series"
    else
        echo "FAILED $name:"
        cat "$scratch/said"
        failed=1
    fi
    for metric in "$@"; do
        grep -q -F "$metric" "$scratch/metrics" || { echo "FAILED $name has no $metric"; failed=1; }
    done
    stop
}

during=true
cd "$scratch" || exit 1
"$root/target/debug/flights" node --set log.format=json 2>log >/dev/null &
pid=$!
run_pipeline() {
    local address
    address=$(sed -n '/"node started"/s/.*"address":"\([^"]*\)".*/\1/p' log | head -1)
    "$root/target/debug/flights" run hourly-delays --address "$address" --detach >ran 2>&1 || { cat ran; failed=1; }
}
during=run_pipeline
checks flights 'afflux_operator_records_in_total{' 'afflux_rpc_server_bytes_total{' 'afflux_slots{state="ready"}' \
    'afflux_registry_lookups_total{result="found"} 0' afflux_build_info process_cpu_seconds_total

for detail in minimal debug; do
    "$root/target/debug/afflux-greeter" node --set log.format=json --set grpc.listen=127.0.0.1:0 \
        --set metrics.detail=$detail --set trace.sample_per_million=1000000 \
        --set trace.otlp_endpoint=http://127.0.0.1:9 2>log >/dev/null &
    pid=$!
    greet() {
        local address
        address=$(sed -n '/"node started"/s/.*"address":"\([^"]*\)".*/\1/p' log | head -1)
        for _ in $(seq 40); do
            "$root/target/debug/afflux-greeter" call --address "$address" helloworld.Greeter/SayHello \
                '{"name":"you"}' >said 2>&1 || { cat said; failed=1; return; }
        done
    }
    during=greet
    case $detail in
    minimal) more='afflux_rpc_server_requests_total{code="OK",method="all",service="helloworld.Greeter"} 40' ;;
    debug) more='message="SayHello"' ;;
    esac
    checks "greeter, $detail" "$more" afflux_trace_spans_dropped_total afflux_trace_spans_exported_total
done
exit $failed
