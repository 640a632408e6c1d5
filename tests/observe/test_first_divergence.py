"""Whatever one rank of a mesh does otherwise, and wherever: the merge of the recorders says that place, and what each
rank did there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.observe.divergence import KINDS, found, plant

SEEDS = 36  # each kind several times


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_the_planted_difference_is_the_first_that_is_found(tmp_path: Path, kind: int) -> None:
    for seed in range(kind, SEEDS, len(KINDS)):
        planted = plant(tmp_path / str(seed), seed)
        assert planted.kind == KINDS[kind]
        assert found(planted) == "", f"seed {seed}, rank {planted.odd} of {planted.ranks}"


def test_another_place_would_be_said_to_be_wrong(tmp_path: Path) -> None:
    planted = plant(tmp_path, 0)
    call_id, op = planted.place
    assert found(replace(planted, place=(call_id, op + 1))).startswith(f"place {planted.place}")
    assert found(replace(planted, did=dict.fromkeys(planted.did, "nothing"))).startswith("did")
