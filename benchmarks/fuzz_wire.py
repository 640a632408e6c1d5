"""Ten thousand wrong frames, and that the readers refuse each of them and say what is wrong.

    python -m benchmarks.fuzz_wire [--count N] [--seed N]

Some thirty ways of being wrong (`genlock/drills/mutations.py`) on the frames of every cache policy and
regime, on notices and on results. Exits with 4 if a wrong frame is taken, a right one refused, a reader broken, or the
first wrong field named in fewer than 99 of 100.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.kept import RESULTS, keep, surroundings  # noqa: E402 - of this repository, which is on no path before
from tests.wire.fuzz import NAMED_LEAST, fuzz  # noqa: E402

FELL_SHORT = 4


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz-wire.json")
    asked = parser.parse_args(words)
    began_s = time.monotonic()
    tally = fuzz(asked.seed, asked.count)
    short = tally.fell_short()
    result = {
        **surroundings("fuzz_wire", words, "src/genlock/wire", "src/genlock/drills/mutations.py", "tests/wire"),
        "seed": asked.seed,
        "frames": tally.made.total(),
        "digests_left": {"refused": tally.left.total()},
        "digests_anew": {
            "break_a_rule": tally.named.total() + len(tally.misnamed),
            "named": tally.named.total(),
            "share_named": round(tally.share_named, 5),
            "bar": f"at least {NAMED_LEAST} name the first wrong field",
            "misnamed": tally.misnamed,
            "legal": tally.legal.total(),
        },
        "wrong_and_taken": tally.taken,
        "legal_and_refused": tally.refused,
        "readers_broken": tally.crashed,
        "ok": not short,
        "seconds": round(time.monotonic() - began_s, 1),
        "by_maker": dict(sorted(tally.made.items())),
        "fields_named": dict(tally.fields.most_common()),
    }
    keep(asked.out, result)
    print(f"{result['frames']} frames of seed {asked.seed} in {result['seconds']} s")
    print(f"digests left as they were: {tally.left.total()} refused, none taken" * (not tally.taken))
    print(f"digests made anew: {tally.named.total()} refused by the right name, {len(tally.misnamed)} by another one")
    print(f"still legal: {tally.legal.total()}, {len(tally.refused)} of them refused")
    print(f"readers broken: {len(tally.crashed)}")
    for each in short or tally.misnamed:
        print(f"  {each}")
    return FELL_SHORT if short else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
