#!/usr/bin/env python3
"""The workloads of the stream benchmarks once more, slowly and independently of the Rust generator.

Prints the small known values that the unit tests of tests/bench/src/workload.rs expect.
Usage: reference.py
"""

from bisect import bisect_right
from collections import Counter
from itertools import accumulate

U64 = (1 << 64) - 1


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & U64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & U64
    return z ^ (z >> 31)


def rnd(i):
    return mix((0x5EED1234ABCD0001 + (i + 1) * 0x9E3779B97F4A7C15) & U64)


def fnv1a(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & U64
    return h


def word(k):
    h = mix(k)
    letters = [chr((((h >> 2) >> (8 * n)) & 0xFF) % 26 + ord("a")) for n in range(2 + (h & 3))]
    return "".join(letters) + str(k)


CUMULATED = list(accumulate((1 << 36) // (k + 1) for k in range(50_000)))
STEP = CUMULATED[-1] >> 20


def rank(r):
    # The least k with CUMULATED[k] > j * STEP.
    return bisect_right(CUMULATED, (r >> 44) * STEP)


def timestamp(i):
    return i // 1000 + 100 - ((((rnd(i) >> 14) & 0xFFFF) * 101) >> 16)


def show(name, value):
    print(f"{name:24} {value}")


def main():
    show("mix(1)", hex(mix(1)))
    for i in (0, 1, 1_000_000):
        show(f"rnd({i})", hex(rnd(i)))
    kept = sum(1 for i in range(1000) if (rnd(i) * 2654435761 & U64) >> 7 & 1 == 0)
    show("w1, 1,000 records", kept)

    sums = Counter()
    for i in range(10_000):
        sums[(rnd(i) >> 1) % 1_000_000] += rnd(i) >> 32
    show("w2 keys, 10,000", len(sums))
    show("w2, 10,000 records", hex(sum((2 * k + 1) * s for k, s in sums.items()) & U64))

    sums = Counter()
    for i in range(0, 3_000_000, 100):
        sums[timestamp(i) // 1000, (rnd(i) >> 1) % 10_000] += rnd(i) >> 32
    show("w3 groups, every 100th", len(sums))
    show("w3, every 100th of 3 M", hex(sum((2 * (w * 10_000 + k) + 1) * s for (w, k), s in sums.items()) & U64))
    show("w3 timestamps", [timestamp(i) for i in (0, 1, 2, 1_000_000)])

    show("words 0-3, 49,999", [word(k) for k in (0, 1, 2, 3, 49_999)])
    show("ranks of 0, 2^63, 2^64-1", [rank(r) for r in (0, 1 << 63, U64)])
    lines = [[word(rank(rnd(10 * i + j))) for j in range(10)] for i in range(200)]
    show("line 0", " ".join(lines[0]))
    counts = Counter(w for line in lines for w in line)
    show("w4 words, 200 lines", len(counts))
    show("w4, 200 lines", hex(sum((fnv1a(w) | 1) * n for w, n in counts.items()) & U64))
    show("fnv1a('afflux')", hex(fnv1a("afflux")))


if __name__ == "__main__":
    main()
