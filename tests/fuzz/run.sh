#!/bin/sh
# Fuzzes one target: run.sh TARGET [SECONDS]. Needs no cargo-fuzz and no nightly, only a C++ compiler for libFuzzer.
# Seeds are read from corpus/TARGET; what is found goes to target/corpus/TARGET, a crash to artifacts/.
set -eu
cd "$(dirname "$0")"
target=${1:?usage: run.sh TARGET [SECONDS], a target is a name in fuzz_targets}
seconds=${2:-60}
mkdir -p "target/corpus/$target" artifacts
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# An explicit --target keeps the flags away from build scripts.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" --bin "$target" --quiet
exec "target/$host/release/$target" -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=64 \
    -artifact_prefix=artifacts/ -verbosity="${FUZZ_VERBOSITY:-0}" -print_final_stats=1 "target/corpus/$target" "corpus/$target"
