"""Settings: one reader, one default, and unknown or malformed variables refused by name."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlock.errors import SettingUnknown, UsageError
from genlock.settings import (
    SPIN_TURNS,
    Deadlines,
    FaultKind,
    Faults,
    Guard,
    Option,
    Phase,
    Settings,
    Value,
    faults_from,
    guards_off_from,
    keep_freed_memory,
    launch_from,
    metrics_port_from,
    options,
    origins,
    planted_faults,
    profiled,
    profiled_from,
    settings_from,
    share_the_cores,
    warn_of_faults,
    warn_of_guards_off,
)


def values_of(option: Option) -> st.SearchStrategy[Value]:
    if option.choices:
        return st.sampled_from(option.choices)
    if option.kind is bool:
        return st.booleans()
    if option.kind is int:
        return st.integers(min_value=option.minimum, max_value=10**6)
    return st.text(alphabet="abc/._-", min_size=1, max_size=20)


def test_nothing_set_means_the_defaults() -> None:
    assert settings_from({"PATH": "/bin", "GENLOC": "near"}) == Settings()


@given(st.data())
def test_what_the_environment_says_is_what_is_set(data: st.DataObject) -> None:
    wanted = {option.name: data.draw(values_of(option), label=option.name) for option in options()}
    environ = {option.variable: str(wanted[option.name]) for option in options()}
    assert dataclasses.asdict(settings_from(environ)) == wanted


def test_a_range_and_a_port_are_read_or_refused_by_the_variables_name() -> None:
    assert (profiled_from("none"), profiled_from("7"), profiled_from("0-2")) == (None, range(7, 8), range(3))
    assert (metrics_port_from("none"), metrics_port_from("0"), metrics_port_from("65535")) == (None, 0, 65535)
    for text in ("", "7-", "-1", "9-7", "a", "1-2-3"):
        with pytest.raises(UsageError, match="GENLOCK_PROFILE"):
            profiled_from(text)
    assert profiled(Settings(profile="7", run_dir="out/run")) == range(7, 8)
    with pytest.raises(UsageError, match="nowhere to write"):
        profiled(Settings(profile="7"))
    for text in ("", "65536", "-1", "any", "٣"):
        with pytest.raises(UsageError, match="GENLOCK_METRICS_PORT"):
            metrics_port_from(text)


@given(st.data(), st.sampled_from([option for option in options() if option.kind is not str or option.choices]))
def test_a_malformed_value_is_refused_by_the_variables_name(data: st.DataObject, option: Option) -> None:
    text = data.draw(st.text(alphabet="xyz!", max_size=6) | st.just("-1"))
    with pytest.raises(UsageError, match=option.variable):
        settings_from({option.variable: text})


def test_an_unknown_variable_is_refused_with_its_neighbour() -> None:
    with pytest.raises(SettingUnknown, match=r"no setting GENLOCK_DEVISE; did you mean GENLOCK_DEVICE\?"):
        settings_from({"GENLOCK_DEVISE": "cpu"})
    with pytest.raises(SettingUnknown, match=r"settings\.md"):
        settings_from({"GENLOCK_ZZZZZZZZ": "1"})


def test_the_tests_own_variable_is_not_a_setting() -> None:
    assert settings_from({"GENLOCK_GOLDEN": "anywhere"}) == Settings()


def test_settings_made_in_code_are_checked_too() -> None:
    with pytest.raises(UsageError, match="GENLOCK_TEXT_CACHE"):
        Settings(text_cache=0)
    with pytest.raises(UsageError, match="use auto, cpu or cuda"):
        Settings(device="gpu")


def test_the_origin_of_a_value_can_be_told() -> None:
    told = origins({"GENLOCK_THREADS": "1"})
    assert told["threads"] == "GENLOCK_THREADS"
    assert told["device"] == "default"


def test_every_setting_is_documented() -> None:
    assert all(option.doc and (option.unit or option.choices or option.kind is bool) for option in options())


def test_idle_threads_spin_briefly_unless_told_otherwise() -> None:
    for told in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}):
        untouched = dict(told)
        share_the_cores(untouched)
        assert untouched == told
    fresh: dict[str, str] = {}
    share_the_cores(fresh)
    assert fresh == {"GOMP_SPINCOUNT": SPIN_TURNS}


def test_freed_memory_is_kept_where_the_c_library_can_be_told() -> None:
    told: list[tuple[int, int]] = []

    class Glibc:
        def mallopt(self, parameter: int, value: int) -> int:
            told.append((parameter, value))
            return 1

    assert keep_freed_memory(Glibc())
    assert told == [(-3, 32 * 1024**2), (-1, 256 * 1024**2)]
    assert not keep_freed_memory(object()), "a C library without it"


def test_a_rank_knows_its_place_by_the_torchrun_contract() -> None:
    assert launch_from({"PATH": "/bin"}) is None
    place = launch_from(
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "9"}
    )
    assert place is not None
    assert (place.rank, place.world, place.one_host, place.supervised) == (1, 2, True, None)
    with pytest.raises(UsageError, match="RANK"):
        launch_from({"RANK": "2", "WORLD_SIZE": "2"})
    with pytest.raises(UsageError, match="MASTER_PORT"):
        launch_from({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "x"})


def test_faults_are_planted_by_rank_phase_and_chunk() -> None:
    faults = faults_from("kill:rank=1,phase=payload,chunk=2; stop:rank=0,phase=load")
    assert faults.at(1, Phase.PAYLOAD, 2) == (FaultKind.KILL,)
    assert faults.at(1, Phase.PAYLOAD, 1) == faults.at(0, Phase.PAYLOAD, 2) == ()
    assert faults.at(0, Phase.LOAD, -1) == (FaultKind.STOP,)
    assert faults_from("none").planted == ()
    for wrong in (
        "kill",
        "kill:rank=1",
        "kill:rank=x,phase=load",
        "tickle:rank=1,phase=load",
        "kill:rank=1,phase=lunch",
    ):
        with pytest.raises(UsageError, match="GENLOCK_FAULTS"):
            faults_from(wrong)


def test_a_fault_that_no_rank_would_strike_is_refused() -> None:
    planted = Settings(faults="kill:rank=1,phase=payload,chunk=2")
    assert planted_faults(Settings(), 0) == Faults()
    assert planted_faults(planted, 2).at(1, Phase.PAYLOAD, 2) == (FaultKind.KILL,)
    for faults, ranks, why in (
        (planted.faults, 0, "this run has no mesh to plant"),
        (planted.faults, 1, "a mesh of 1 has no rank 1 to plant"),
        ("kill:rank=-1,phase=load", 2, "a mesh of 2 has no rank -1"),
        ("kil", 0, "'kil' is not a fault"),
    ):
        with pytest.raises(UsageError, match=f"GENLOCK_FAULTS.*{why}"):
            planted_faults(Settings(faults=faults), ranks)


def test_planted_faults_are_said(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_faults(Settings())
    assert not caplog.records
    warn_of_faults(Settings(faults="kill:rank=1,phase=load"))
    said = "faults are planted on purpose (GENLOCK_FAULTS): kill:rank=1,phase=load"
    assert [record.message for record in caplog.records] == [said]


def test_tripwires_are_left_off_by_name_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert guards_off_from("none") == warn_of_guards_off(Settings()) == frozenset()
    assert not caplog.records
    assert guards_off_from("weights, kv") == {Guard.WEIGHTS, Guard.KV}
    assert warn_of_guards_off(Settings(guards_off="weights", strict=False)) == {Guard.WEIGHTS, Guard.FINITE}
    assert [record.message for record in caplog.records] == [
        "tripwires are off: finite, weights; nothing of this run is to be trusted"
    ]
    for wrong in ("all", "weights,", "none,kv"):
        with pytest.raises(UsageError, match=r"GENLOCK_GUARDS_OFF.*choose from gates, plan"):
            guards_off_from(wrong)


@given(st.integers(min_value=2, max_value=600))
def test_who_can_say_most_speaks_first(answer_s: int) -> None:
    deadlines = Deadlines(answer_s=answer_s)
    assert deadlines.verdict_s < deadlines.group_s < deadlines.supervisor_s
    assert deadlines.of(Phase.IDLE) is None
    assert all(deadlines.of(phase) for phase in Phase if phase is not Phase.IDLE)
