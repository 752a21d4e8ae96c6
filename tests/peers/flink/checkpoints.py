#!/usr/bin/env python3
"""What a checkpoint each second costs, ours and Flink's: W2 (sums of a million keys) and W3 (windows), one task for each
operator, with and without, in turn.

usage: tests/peers/flink/checkpoints.py [--pairs N] [w2] [w3]

Needs what pairs.py needs. The figure is records per CPU second, of all threads, from the job's RUNNING to FINISHED;
Flink's runs are of one JVM that has run both before. Both write a checkpoint each second into files, exactly once, state on the heap.
Our numbers of records are larger, so that both run for ten seconds and more. Results are compared with the known checksums.
"""
import argparse
import json
import statistics
import subprocess
import tempfile

from flink import OURS, Flink, build_ours

# Records; Flink's checksum has to be that of ours for as many.
OURS_RECORDS = {"w2": 400_000_000, "w3": 600_000_000}
FLINK_RECORDS = {"w2": 10_000_000, "w3": 20_000_000}
EVERY_MS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="w2 and w3, if none is named")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--heap", default="6g", help="of the JVM")
    args = parser.parse_args()
    build_ours()
    with tempfile.TemporaryDirectory() as directory:
        records = [str(FLINK_RECORDS[w]) for w in ("w2", "w3")]
        flink = Flink("Workloads", directory, *records, heap=args.heap)

        def ours(workload: str, every_ms: int, records: int) -> dict:
            stream = [str(OURS), "stream", workload, "--records", str(records), "--parallelism", "1"]
            run = [*stream, "--checkpoint-ms", str(every_ms), "--json"]
            return json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

        print(f"records per CPU second in thousands, medians of {args.pairs} pairs; a checkpoint each {EVERY_MS} ms")
        print(f"{'':<12}{'without':>10}{'with':>10}{'cost':>8}   least and greatest", flush=True)
        for workload in args.workloads or FLINK_RECORDS:
            same = ours(workload, 0, FLINK_RECORDS[workload])["checksum"]
            sides = {
                "afflux": lambda ms: ours(workload, ms, OURS_RECORDS[workload]),
                "flink": lambda ms: flink.ask(f"{workload} {ms}"),
            }
            for name, run in sides.items():
                pairs = [(run(0), run(EVERY_MS)) for _ in range(args.pairs)]
                for found in (found for pair in pairs for found in pair):
                    if name == "flink" and found["checksum"] != same:
                        raise SystemExit(f"Flink's {workload} found {found['checksum']}, ours {same}")
                costs = [1 - b["per_cpu_s"] / a["per_cpu_s"] for a, b in pairs]
                a, b = (statistics.median(found["per_cpu_s"] for found in side) for side in zip(*pairs))
                print(
                    f"{workload} {name:<9}{a / 1e3:>10.0f}{b / 1e3:>10.0f}{statistics.median(costs):>8.1%}"
                    f"   {min(costs):.1%} – {max(costs):.1%}",
                    flush=True,
                )
        flink.end()


if __name__ == "__main__":
    main()
