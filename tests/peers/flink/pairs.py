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
import sys
import zipfile
from pathlib import Path

FLINK = "2.3.0"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
OURS = ROOT / "target/release/afflux-bench"
PACKAGES = ["lang", "util", "nio", "time", "lang.invoke", "lang.reflect", "util.concurrent", "net", "io", "text"]


def jars(directory: Path) -> str:
    """The class path of Flink, downloaded once."""
    lib = directory / "pyflink/lib"
    if not lib.exists():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"apache-flink-libraries=={FLINK}"]
        subprocess.run([*pip, "-d", str(directory)], check=True)
        wheel = next(directory.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory, [n for n in archive.namelist() if n.startswith("pyflink/lib/")])
        wheel.unlink()
    return f"{lib}/*"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="all that both sides have, if none is named")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rate", type=int, default=10_000, help="events a second of their time")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--heap", default="6g", help="of the JVM")
    args = parser.parse_args()
    directory = ROOT / "target/flink"
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cargo", "build", "--release", "--quiet", "--bin", "afflux-bench"], cwd=ROOT, check=True)
    path = jars(directory)
    subprocess.run(["javac", "-cp", path, "-d", str(directory / "classes"), str(HERE / "Nexmark.java")], check=True)
    asked = ["--events", str(args.events), "--rate", str(args.rate)]
    events = directory / f"events-{args.events}-{args.rate}"
    if not (events / "bid.json").exists():
        events.mkdir(exist_ok=True)
        subprocess.run([OURS, "nexmark", "events", *asked, "--out", str(events)], check=True)
    opens = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in PACKAGES]
    java = ["java", f"-Xmx{args.heap}", *opens, "-cp", f"{directory / 'classes'}:{path}", "Nexmark", str(events)]
    with open(directory / "flink.log", "w") as log:
        flink = subprocess.Popen(java, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    def theirs(query: str) -> float:
        flink.stdin.write(f"{query}\n")
        flink.stdin.flush()
        line = flink.stdout.readline()
        if not line:
            sys.exit(f"Flink ended at {query}; see {directory / 'flink.log'}")
        return json.loads(line)["per_cpu_s"]

    def ours(query: str) -> float:
        run = subprocess.run([OURS, "nexmark", query, *asked, "--json"], check=True, capture_output=True, text=True)
        return json.loads(run.stdout)["per_cpu_s"]

    known = flink.stdout.readline().split()[1:]
    print(f"{args.events} events, 1 task, medians of {args.pairs} pairs, thousand events per CPU second")
    print(f"{'query':<6}{'afflux':>10}{'flink':>10}{'ratio':>8}   least and greatest ratio", flush=True)
    for query in args.queries or known:
        pairs = [(ours(query), theirs(query)) for _ in range(args.pairs)]
        ratios = [a / b for a, b in pairs]
        a, b = (statistics.median(side) for side in zip(*pairs))
        print(
            f"{query:<6}{a / 1e3:>10.0f}{b / 1e3:>10.0f}{statistics.median(ratios):>8.1f}"
            f"   {min(ratios):.1f} – {max(ratios):.1f}",
            flush=True,
        )
    flink.stdin.close()
    flink.wait()


if __name__ == "__main__":
    main()
