#!/usr/bin/env python3
"""Measures our benchmark against a peer, A B A B, and prints medians and ratios.

A pair is one run of ours and one of the peer, directly after it. The figure that counts is the median of the pairs' ratios of work per CPU second. The two
checksums must agree; a difference is an error.

Exit status: 0 measured, 1 a run failed or the results differ, 2 wrong arguments, 3 below --at-least.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE / "target" / "release"
OURS = HERE.parents[1] / "target" / "release" / "afflux-bench"

# Records per worker for a run of ten seconds or more on timely; W4 counts lines.
RECORDS = {"w1": 2_500_000_000, "w2": 450_000_000, "w3": 1_600_000_000, "w4": 18_000_000}
STREAM_PEERS = ("timely", "renoir", "hand")
RPC_PEERS = ("tarpc", "tonic")
ITEM_BENCHES = ("r4", "r5")


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    stream = kinds.add_parser("stream", help="W1 to W4 against timely, renoir or a loop without an engine")
    stream.add_argument("bench", choices=sorted(RECORDS))
    stream.add_argument("--peer", choices=STREAM_PEERS, default="timely")
    stream.add_argument("--records", type=int, help="default: ten seconds or more on timely")
    stream.add_argument("--threads", type=int, default=1, help="workers in each process")
    stream.add_argument("--processes", type=int, default=1)
    stream.add_argument("--shape", choices=("record", "batch"), default="record", help="of the hand loop")
    stream.add_argument("--filter", choices=("retain", "branchless"), default="retain", help="of timely's W1")
    rpc = kinds.add_parser("rpc", help="R1 to R5 against tarpc or tonic")
    rpc.add_argument("bench", choices=("r1", "r2", "r3", "r4", "r5"))
    rpc.add_argument("--peer", choices=RPC_PEERS, help="default: tarpc; R4 and R5 tonic")
    rpc.add_argument("--records", type=int, default=50_000_000, help="items of R4 and R5")
    rpc.add_argument("--outstanding", type=int, help="default: R1 1, R2 256, R3 64")
    rpc.add_argument("--payload", type=int, help="bytes; default: R1 and R2 two numbers, 16; R3 1,024")
    rpc.add_argument("--seconds", type=float, default=10.0)
    for kind in (stream, rpc):
        kind.add_argument("--pairs", type=int, default=5)
        kind.add_argument("--allocator", choices=("default", "system", "mimalloc"), default="default",
                          help="of the peer; default: mimalloc for W4, else the system's")
        kind.add_argument("--ours", default=str(OURS), help="our benchmark; default: %(default)s")
        kind.add_argument("--ours-args", default="", help="more arguments for ours, such as '--checkpoint-ms 1000'")
        kind.add_argument("--timeout", type=float, default=600.0, help="seconds for one run")
        kind.add_argument("--at-least", type=float, help="fail if the ratio of work per CPU second is below this")
        kind.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    args = parser.parse_args(argv)
    for name in ("pairs", "records", "threads", "processes", "outstanding", "payload"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}, expected at least 1")
    if args.kind == "stream" and args.peer == "hand" and args.processes > 1:
        parser.error("the hand loop has one process, expected --processes 1")
    if args.kind == "stream" and args.peer == "renoir" and (args.processes > 1 or args.bench == "w3"):
        parser.error("renoir is measured in one process, W1, W2 and W4: tests/peers/README.md says why")
    if args.kind == "rpc":
        args.peer = args.peer or ("tonic" if args.bench in ITEM_BENCHES else "tarpc")
        if args.bench in ITEM_BENCHES and args.peer == "tarpc":
            parser.error("tarpc has no streams, expected --peer tonic")
    return args


def commands(args):
    """Our command and the peer's."""
    mimalloc = args.allocator == "mimalloc" or (args.allocator == "default" and args.bench == "w4")
    peer = [str(PEERS / (args.peer + ("-mimalloc" if mimalloc else ""))), args.bench]
    ours = [args.ours, args.kind, args.bench]
    if args.kind == "stream":
        records = str(args.records or RECORDS[args.bench] * args.threads * args.processes)
        # Ours counts subtasks over all nodes, timely counts workers in each process.
        ours += ["--records", records, "--parallelism", str(args.threads * args.processes),
                 "--nodes", str(args.processes)]
        peer += ["--records", records, "--threads", str(args.threads)]
        if args.peer == "timely":
            peer += ["--processes", str(args.processes), "--filter", args.filter,
                     "--allocator", "mimalloc" if mimalloc else "system"]
        elif args.peer == "hand":
            peer += ["--shape", args.shape]
    elif args.bench in ITEM_BENCHES:
        ours += ["--records", str(args.records)]
        peer += ["--records", str(args.records)]
    else:
        outstanding = args.outstanding or {"r1": 1, "r2": 256, "r3": 64}[args.bench]
        payload = args.payload or {"r1": 16, "r2": 16, "r3": 1024}[args.bench]
        load = ["--outstanding", str(outstanding), "--payload", str(payload), "--seconds", f"{args.seconds:g}"]
        ours += load
        peer += load
    return ours + ["--json"] + args.ours_args.split(), peer


def run(command, timeout):
    """Runs a command and returns the JSON object on the last line that holds one."""
    try:
        # A process group of its own, so that a run that hangs ends with all its processes.
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    except OSError as error:
        raise SystemExit(f"error: {command[0]}: {error.strerror}; build it first") from None
    try:
        output, _ = child.communicate(timeout=timeout)
    except BaseException as stopped:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if isinstance(stopped, subprocess.TimeoutExpired):
            raise SystemExit(f"error: {' '.join(command)}: no end after {timeout:g} s") from None
        raise
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if child.returncode != 0 or not lines:
        raise SystemExit(f"error: {' '.join(command)}: status {child.returncode}, {len(lines)} JSON lines")
    return json.loads(lines[-1])


def check(ours, theirs):
    """Ends the program if the two did not find the same."""
    for name in ("checksum", "records", "results"):
        mine, other = ours.get(name), theirs.get(name)
        if mine is not None and other is not None and mine != other:
            raise SystemExit(f"error: {name} differs: ours {mine}, the peer {other}")


def per_wall_s(line):
    return line.get("records", line.get("requests", 0)) / line["wall_s"]


FIGURES = {
    "per_cpu_s": lambda line: line["per_cpu_s"],
    "per_wall_s": per_wall_s,
    "p50_us": lambda line: line.get("p50_us"),
    "p99_us": lambda line: line.get("p99_us"),
    "p999_us": lambda line: line.get("p999_us"),
    "rss_mb": lambda line: line.get("rss_mb"),
}


def summarize(pairs):
    """Medians of both sides and of the pairs' ratios, ours over the peer's."""
    summary = {}
    for name, figure in FIGURES.items():
        values = [(figure(ours), figure(theirs)) for ours, theirs in pairs]
        if any(mine is None or not other for mine, other in values):
            continue
        ratios = [mine / other for mine, other in values]
        summary[name] = {
            "ours": statistics.median(mine for mine, _ in values),
            "peer": statistics.median(other for _, other in values),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return summary


def number(value):
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def table(args, peer, summary):
    print(f"{args.kind} {args.bench}, ours / {peer}, medians of {args.pairs} pairs; ratio (least to greatest)")
    print(f"{'':12}{'ours':>12}{'peer':>12}{'ratio':>9}")
    for name, row in summary.items():
        spread = f"({row['ratio_min']:.3f} to {row['ratio_max']:.3f})"
        print(f"{name:12}{number(row['ours']):>12}{number(row['peer']):>12}{row['ratio']:>9.3f}  {spread}")


def main(argv):
    args = arguments(argv)
    ours, peer = commands(args)
    peer_name = Path(peer[0]).name
    pairs = []
    for place in range(args.pairs):
        mine, other = run(ours, args.timeout), run(peer, args.timeout)
        check(mine, other)
        pairs.append((mine, other))
        ratio = mine["per_cpu_s"] / other["per_cpu_s"]
        print(f"pair {place + 1} of {args.pairs}: per CPU second {number(mine['per_cpu_s'])} / "
              f"{number(other['per_cpu_s'])} = {ratio:.3f}", file=sys.stderr)
        for name, line in (("ours", mine), (peer_name, other)):
            if line["wall_s"] < 10:
                print(f"note: {name} ran for {line['wall_s']:.1f} s, less than 10 s", file=sys.stderr)
    summary = summarize(pairs)
    if args.json:
        print(json.dumps({
            "bench": f"{args.kind} {args.bench}",
            "peer": peer_name,
            "pairs": args.pairs,
            "commands": {"ours": ours[1:], "peer": peer[1:]},
            "checksum": pairs[0][0].get("checksum"),
            **summary,
        }))
    else:
        table(args, peer_name, summary)
    if args.at_least is not None and summary["per_cpu_s"]["ratio"] < args.at_least:
        print(f"error: the ratio is {summary['per_cpu_s']['ratio']:.3f}, expected at least {args.at_least}",
              file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
