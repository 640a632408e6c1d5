"""That `genlock recorder merge` finds where ranks first did not do the same: planted in recorders, and in real runs.

    python -m benchmarks.first_divergence [--count N] [--seed N]

Recorders of 2 to 4 ranks, written as ranks write them, in which one rank does something else at a random call and
collective; and whole runs on the toy model in which a rank is killed, or does another pass with its tripwires off.
Exits with 4 if one place is not found.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.kept import RESULTS, keep, surroundings  # noqa: E402 - of this repository, which is on no path before
from tests.observe.divergence import found, plant  # noqa: E402

from genlock.drills.runs import LAST_CHUNK, SHORT, Run, fault  # noqa: E402
from genlock.drills.toy import write_toy_model  # noqa: E402
from genlock.observe.merge import merge, read_run  # noqa: E402
from genlock.settings import Phase  # noqa: E402

FELL_SHORT = 4
SOURCES = ("src/genlock/observe", "src/genlock/fabric", "tests/observe")
INSIDE = ", entered and not finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """A run of two ranks. op: where in the last chunk they first differ. did: what each does there, as patterns."""

    name: str
    faults: str
    op: int
    did: tuple[str, str]
    guards_off: str = "none"


REAL = (
    Real(
        name="rank 1 is killed before its first generator call",
        faults=fault("kill", Phase.CALL, 1),
        op=2,
        did=(rf"recompute 1: sum_\w+ \d+ blocks\.0\.\S+{INSIDE}", "nothing"),
    ),
    Real(
        name="rank 0 is killed before the payload",
        faults=fault("kill", Phase.PAYLOAD, 0),
        op=1,
        did=("nothing", rf"payload: broadcast \d+{INSIDE}"),
    ),
    Real(
        name="rank 1 leaves out a pass, and nobody holds it to the plan",
        faults=fault("skip_call", Phase.CALL, 1),
        op=2,
        did=(r"recompute 1: sum_\w+ \d+ blocks\.0\.\S+", r"denoise 1: sum_\w+ \d+ blocks\.0\.\S+"),
        guards_off="plan,call_count,ledger",
    ),
)


def planted(seed: int, count: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(seed, seed + count):
        with tempfile.TemporaryDirectory(prefix="divergence-") as folder:
            case = plant(Path(folder), number)
            rows.append(
                {
                    "seed": number,
                    "kind": case.kind,
                    "ranks": case.ranks,
                    "odd_rank": case.odd,
                    "call": case.place[0],
                    "collective": case.place[1],
                    "fell_short": found(case),
                }
            )
    return rows


def of_a_run(case: Real, folder: Path, model: Path) -> dict[str, Any]:
    run = Run(folder, model, "generate", *SHORT, faults=case.faults, GENLOCK_GUARDS_OFF=case.guards_off)
    code = run.ended()
    held = read_run(run.run_dir)
    merged = merge(held)
    call_id = next(entry.call_id for entries in held.values() for entry in entries if entry.chunk == LAST_CHUNK)
    did = [merged.did.get(rank, "") for rank in (0, 1)]
    right = merged.place == (call_id, case.op) and all(map(re.fullmatch, case.did, did))
    short = "" if right else f"place {merged.place}, due {(call_id, case.op)}; did {did}"
    return {"run": case.name, "code": code, "call": call_id, "collective": case.op, "did": did, "fell_short": short}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=45, help="cases planted in recorders")
    parser.add_argument("--seed", type=int, default=1000, help="of the first of them")
    parser.add_argument("--out", type=Path, default=RESULTS / "first-divergence.json")
    asked = parser.parse_args(words)
    rows = planted(asked.seed, asked.count)
    runs = []
    with tempfile.TemporaryDirectory(prefix="divergence-") as folder:
        (Path(folder) / "model").mkdir()
        model = write_toy_model(Path(folder) / "model")
        for number, case in enumerate(REAL):
            runs.append(of_a_run(case, Path(folder) / str(number), model))
    short = [row for row in (*rows, *runs) if row["fell_short"]]
    result = {
        **surroundings("first_divergence", words, *SOURCES),
        "found": f"{len(rows) + len(runs) - len(short)} of {len(rows) + len(runs)}",
        "ok": not short,
        "planted": rows,
        "runs": runs,
    }
    keep(asked.out, result)
    print(f"{result['found']} first differences found: {len(rows)} planted in recorders, {len(runs)} in real runs")
    for row in short:
        print(f"fell short: {row}")
    return FELL_SHORT if short else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
