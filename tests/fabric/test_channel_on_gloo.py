"""The channel over a real backend and real processes: whoever is killed or stopped is named by all who are left."""

from __future__ import annotations

import signal

import pytest
from tests.fabric.channel_scenarios import DEADLINES
from tests.ranks import Outcome, Ranks

from genlock.settings import Phase

CHUNKS = "tests.fabric.channel_scenarios:chunks"
SIZE = 3
BOUND_S = 5.0  # from the last good verdict to the end of a run with a killed rank
STOPPED_S = DEADLINES.answer_s + 3.0


def survivors(outcomes: list[Outcome], victim: int) -> list[Outcome]:
    assert outcomes[victim].ended == -signal.SIGKILL
    left = [outcome for rank, outcome in enumerate(outcomes) if rank != victim]
    assert all(outcome.ended == 0 for outcome in left), outcomes
    return left


def test_a_run_without_a_fault_ends_well(ranks: Ranks) -> None:
    outcomes = ranks(CHUNKS, size=SIZE)
    assert [(outcome.ended, outcome.said["text"]) for outcome in outcomes] == [(0, "")] * SIZE


KILLS = [  # each moment, and each rank at least twice
    (Phase.ACCEPT, 0),
    (Phase.ACCEPT, 1),
    (Phase.PAYLOAD, 0),
    (Phase.PAYLOAD, 2),
    ("work", 0),
    ("work", 1),
    ("work", 2),
    (Phase.VERDICT, 1),
]


@pytest.mark.parametrize(("at", "victim"), KILLS)
def test_a_killed_rank_is_named_by_everybody_within_the_bound(ranks: Ranks, at: str, victim: int) -> None:
    for outcome in survivors(ranks(CHUNKS, size=SIZE, victim=victim, at=at), victim):
        assert (outcome.said["code"], outcome.said["rank"]) == ("GL-LINK-01", victim), outcome.said
        assert outcome.said["seconds"] < BOUND_S


@pytest.mark.parametrize("at", [Phase.ACCEPT, Phase.VERDICT])
def test_a_worker_that_is_stopped_where_only_it_is_waited_for_is_named(ranks: Ranks, at: str) -> None:
    """Inside a collective every rank waits for every other: there only beacons tell."""
    outcomes = ranks(CHUNKS, size=SIZE, within_s=STOPPED_S + 1, victim=2, at=at, how="SIGSTOP")
    for outcome in survivors(outcomes, 2):
        assert (outcome.said["code"], outcome.said["rank"]) == ("GL-LINK-02", 2), outcome.said
        assert outcome.said["seconds"] < STOPPED_S


@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_that_is_stopped_in_a_collective_ends_the_run_and_nobody_innocent_is_named(
    ranks: Ranks, victim: int
) -> None:
    outcomes = ranks(CHUNKS, size=SIZE, within_s=STOPPED_S + 1, victim=victim, at="work", how="SIGSTOP")
    for outcome in survivors(outcomes, victim):
        assert outcome.said["code"] in ("GL-RANK-02", "GL-LINK-02", "GL-LINK-01"), outcome.said
        assert outcome.said["rank"] in (None, victim), outcome.said
        assert outcome.said["seconds"] < STOPPED_S
