#!/usr/bin/env python3
"""Our Nexmark queries beside Flink SQL, in pairs: each query on one task here, then there, in turn.

usage: tests/peers/flink/pairs.py [--events N] [--pairs N] [QUERY ...]

Needs Java 17 (javac too), and pip for Flink's jars: `apache-flink-libraries` of PyPI, 329 MB, once. Builds our
benchmark first. The figure is events per CPU second, of all threads, from the job's RUNNING to FINISHED; Flink's
is of the second run in one JVM. What is not the same: where Flink's SQL tells every change of a result (q4, q15,
q18), ours tells every change (q4), the day's statistics when the day is over (q15), or the last bid when the input
has ended (q18).
"""
import argparse
import json
import statistics
import subprocess

from flink import DIRECTORY, OURS, Flink, build_ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="all that both sides have, if none is named")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rate", type=int, default=10_000, help="events a second of their time")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--heap", default="6g", help="of the JVM")
    args = parser.parse_args()
    build_ours()
    asked = ["--events", str(args.events), "--rate", str(args.rate)]
    events = DIRECTORY / f"events-{args.events}-{args.rate}"
    if not (events / "bid.json").exists():
        events.mkdir(parents=True, exist_ok=True)
        subprocess.run([OURS, "nexmark", "events", *asked, "--out", str(events)], check=True)
    flink = Flink("Nexmark", str(events), heap=args.heap)

    def ours(query: str) -> float:
        run = subprocess.run([OURS, "nexmark", query, *asked, "--json"], check=True, capture_output=True, text=True)
        return json.loads(run.stdout)["per_cpu_s"]

    print(f"{args.events} events, 1 task, medians of {args.pairs} pairs, thousand events per CPU second")
    print(f"{'query':<6}{'afflux':>10}{'flink':>10}{'ratio':>8}   least and greatest ratio", flush=True)
    for query in args.queries or flink.ready:
        pairs = [(ours(query), flink.ask(query)["per_cpu_s"]) for _ in range(args.pairs)]
        ratios = [a / b for a, b in pairs]
        a, b = (statistics.median(side) for side in zip(*pairs))
        print(
            f"{query:<6}{a / 1e3:>10.0f}{b / 1e3:>10.0f}{statistics.median(ratios):>8.1f}"
            f"   {min(ratios):.1f} – {max(ratios):.1f}",
            flush=True,
        )
    flink.end()


if __name__ == "__main__":
    main()
