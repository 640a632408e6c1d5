"""What gloo does, as far as genlock's rules rest on it. A fact that changes with a new torch changes a rule of ours.

Each test names the rule. Numbers are those of the list of facts that the design keeps; a gap there is a fact that
needs another machine, or that no rule needs. Ranks are real processes.
"""

from __future__ import annotations

import signal

import pytest
from tests.facts.scenarios import T
from tests.ranks import Ranks

pytestmark = pytest.mark.slow

SCENE = "tests.facts.scenarios:"
ABORTED = -signal.SIGABRT
SLACK = 5.0  # seconds, for a machine that is busy


def test_1_a_buffer_too_large_keeps_its_tail_and_one_too_small_kills_its_owner(ranks: Ranks) -> None:
    """So a payload's size is announced, agreed on, and exact."""
    sent, received = ranks(SCENE + "receive_into", size=2, elements=8)
    assert (sent.ended, received.ended) == (0, 0)
    assert received.said == [1.0] * 4 + [-1.0] * 4
    taken = ranks(SCENE + "broadcast_into", size=2, elements=8)[1]
    assert taken.said == [0.0] * 4 + [1.0] * 4
    for scenario in ("receive_into", "broadcast_into"):
        assert ranks(SCENE + scenario, size=2, elements=2)[1].ended == ABORTED, "no exception: nothing can be said"


def test_2_another_dtype_or_shape_of_the_same_bytes_is_success(ranks: Ranks) -> None:
    """So a door's method fixes its dtype, and shapes are part of the ledger."""
    floats, integers = (outcome.said for outcome in ranks(SCENE + "another_dtype", size=2))
    assert floats["broadcast"] == [1.0] * 4
    assert integers["broadcast"] == [0x3F800000] * 4, "the bits of 1.0, as a number"
    assert floats["summed"] != [2.0] * 4
    assert integers["summed"] != [2] * 4


def test_3_another_operation_or_order_gives_the_same_wrong_value_on_all_ranks(ranks: Ranks) -> None:
    """So a door's method fixes its operation, and the order of sites is in the ledger: values show nothing."""
    one, other = (outcome.said for outcome in ranks(SCENE + "another_operation", size=2))
    assert one == other, "comparing ranks finds nothing"
    assert one["mixed"] == [3.0, 10.0], "rank 1 asked for the largest"
    assert one["swapped"] == [11.0, 11.0], "2 and 20 were meant"


def test_4_unequal_sizes_abort_time_out_or_pass_by_size_and_by_chance(ranks: Ranks) -> None:
    """So sizes follow from what was announced, and both ends of every sum compute them from the same numbers."""
    ended: set[int] = set()
    silent = 0
    for elements in ([17, 18], [2, 2, 3]) * 3:
        outcomes = ranks(SCENE + "unequal_sizes", size=len(elements), elements=elements)
        ended |= {outcome.ended for outcome in outcomes}
        right = [float(len(elements))] * 2
        silent += sum(outcome.ended == 0 and outcome.said != right for outcome in outcomes)
    assert {0, 1, ABORTED} <= ended, "success, an exception, and a process that is gone"
    assert silent > 0, "a wrong sum, and no word"


def test_5_a_view_with_strides_is_taken_and_written_beside(ranks: Ranks) -> None:
    """So only a contiguous tensor passes the door. (Sends and receives refuse one by themselves since torch 2.13.)"""
    assert "contiguous" in ranks(SCENE + "strided", size=2, operation="receive")[1].said["refused"]
    broadcast = ranks(SCENE + "strided", size=2, operation="broadcast")[1].said
    assert broadcast["whole"][1::2] != [1.0] * 4, "elements that are not in the view"
    summed = ranks(SCENE + "strided", size=2, operation="sum")[1].said
    assert summed["whole"][1::2] != [1.0] * 4
    assert summed["view"] != [6.0] * 4


def test_7_a_send_waits_for_its_receiver(ranks: Ranks) -> None:
    """So a test over gloo cannot show a sender that runs ahead: ids in the frames are tested by themselves."""
    assert ranks(SCENE + "late_receiver", size=2)[0].said >= 0.4


def test_8_what_is_sent_is_read_late_and_work_that_is_dropped_is_not_done(ranks: Ranks) -> None:
    """So every collective of ours is waited for before its tensor is used again."""
    assert ranks(SCENE + "overwritten", size=2)[1].said == [2.0] * 4, "one was sent"
    assert "Timed out" in ranks(SCENE + "dropped", size=2)[1].said


def test_9_a_collective_too_many_costs_the_timeout_and_the_group(ranks: Ranks) -> None:
    """So calls are held against the plan before their first collective, and nobody idles inside a collective."""
    one, other = (outcome.said for outcome in ranks(SCENE + "one_too_many", size=2))
    text, seconds, afterwards = one
    assert "Timed out" in text
    assert 0.9 * T < seconds < T + SLACK
    assert afterwards, "the group cannot be used any more"
    assert other[0], "nor by the other rank"
    assert other[1] < 0.9 * T


def test_10_a_rank_outside_a_group_is_told_nothing_and_a_group_has_a_timeout_of_its_own(ranks: Ranks) -> None:
    """So membership is checked at the door, and every group is given its timeout when it is made."""
    inside, _, outside = (outcome.said for outcome in ranks(SCENE + "not_a_member", size=3))
    assert outside["received"] == -1
    assert outside["tensor"] == [7.0, 7.0]
    assert outside["warnings"] >= 1
    assert inside["timeouts"] == [5.0, 1800.0], "the second was not told one; the first group of all had 10 s"


def test_11_a_killed_peer_is_noticed_at_once_by_who_waits_for_it_and_by_nobody_else(ranks: Ranks) -> None:
    """So who is idle watches its connections and the supervisor its children."""
    waiting, idle, killed = ranks(SCENE + "peer_killed", size=3)
    assert killed.ended == -signal.SIGKILL
    text, seconds = waiting.said
    assert "closed by peer" in text or "reset by peer" in text
    assert seconds < SLACK
    assert idle.said == ["idle", 0.0]
    assert idle.ended == 0


def test_12_a_stopped_peer_is_noticed_at_the_timeout_and_a_pause_within_it_heals(ranks: Ranks) -> None:
    """So a stop is the supervisor's to see, and a short one costs nothing."""
    text, seconds = ranks(SCENE + "peer_stopped", size=2, seconds=T + 0.7, timeout_s=T)[0].said
    assert "Timed out" in text
    assert 0.9 * T < seconds < T + SLACK
    healed = ranks(SCENE + "peer_stopped", size=2, seconds=0.5, timeout_s=5.0)
    assert [outcome.said[0] for outcome in healed] == ["", ""]


def test_13_ranks_that_meet_in_a_file_wait_no_longer_than_they_say(ranks: Ranks) -> None:
    """So a missing rank is an error of the start; at a store that a rank serves, a stopped one would be a hang."""
    text, seconds = ranks(SCENE + "meet_alone", size=2)[1].said
    assert text
    assert 0.9 * T < seconds < T + SLACK


def test_15_two_threads_on_one_group_mix_their_numbers(ranks: Ranks) -> None:
    """So a group has one owner thread, and the door asks who comes."""
    shared = ranks(SCENE + "two_threads", size=2, groups=1)
    assert all(outcome.ended == 0 for outcome in shared), "no error"
    assert all(sum(outcome.said) > 0 for outcome in shared), "and wrong sums"
    assert [outcome.said for outcome in ranks(SCENE + "two_threads", size=2, groups=2)] == [[0, 0], [0, 0]]


def test_16_nothing_frees_a_thread_in_a_collective_but_the_end_of_its_process(ranks: Ranks) -> None:
    """So the way out of a failure is `os._exit`, from a thread that is not in it."""
    text, seconds = ranks(SCENE + "no_abort", size=2)[0].said
    assert text
    assert seconds > 0.9 * T, "taking the group apart did not help"
    ended, _ = ranks(SCENE + "exit_from_a_thread", size=2)
    assert ended.ended == 12
    assert ended.seconds < 10


@pytest.mark.parametrize("size", [2, 3])
def test_19_a_sum_has_the_same_bits_every_time_and_on_every_rank_and_its_own_at_every_place(
    ranks: Ranks, size: int
) -> None:
    """So one mesh repeats itself to the bit; from three ranks on, nothing may be padded or fused in passing."""
    said = [outcome.said for outcome in ranks(SCENE + "bits_of_a_sum", size=size)]
    assert all(each["again"] for each in said)
    assert len({each["bits"] for each in said}) == 1
    assert said[0]["padded"] == (size == 2)


def test_a_group_that_was_made_patient_can_be_made_short(ranks: Ranks) -> None:
    """So a start may take minutes and a chunk may not."""
    text, seconds = ranks(SCENE + "shortened", size=2)[0].said
    assert "Timed out" in text
    assert 0.9 * T < seconds < T + SLACK
