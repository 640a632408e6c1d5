"""What a real run leaves in its folder: spans and an account of every rank, and what came first where it failed."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from genlock.drills.runs import ENDLESS, LAST_CHUNK, NOT_ENTERED, Run, until
from genlock.observe.rank_file import read_rank_files
from genlock.observe.recorder import PHASE, SPAN, Writer
from genlock.observe.timeline import MONOTONIC, TIME_OF_DAY, chrome_trace, read_timeline, timeline
from genlock.report.collect import collect
from genlock.report.parts import PARTS
from genlock.settings import START_PHASES, Phase

pytestmark = pytest.mark.slow

STEPS = 2  # of the toy model
ROUND = (Phase.ACCEPT, Phase.PAYLOAD, Phase.CALL, Phase.VERDICT)
RANK_0 = {"plan", "pack", "generate", "denoise", "recompute", "checks", "vae decode", "absorb", "fetch", "picture"}


def events(folder: Path) -> list[dict[str, Any]]:
    return json.loads(json.dumps(chrome_trace(read_timeline(folder))))["traceEvents"]


def test_every_phase_and_call_of_every_rank_is_a_span(killed: Path) -> None:
    drawn = [event for event in events(killed) if event["ph"] == "X"]
    for rank in (0, 1):
        own = [event for event in drawn if event["pid"] == rank]
        entered = [phase for phase in START_PHASES if rank == 0 or phase not in NOT_ENTERED]
        assert [*dict.fromkeys(e["name"] for e in own if e["name"] in START_PHASES)] == entered
        for chunk in range(LAST_CHUNK):
            phases = [e["name"] for e in own if e["cat"] == PHASE and e["args"].get("chunk") == chunk]
            assert [*dict.fromkeys(phase for phase in phases if phase in ROUND)] == [*ROUND], (rank, chunk)
            denoised = [e for e in own if e["name"] == "denoise" and e["args"].get("chunk") == chunk]
            assert len(denoised) == STEPS
            assert all(event["args"]["call"] == denoised[0]["args"]["call"] for event in denoised)
    named = {event["name"] for event in drawn if event["pid"] == 0 and event["cat"] == SPAN}
    assert named >= RANK_0 | {"text encode", "vae encode", "mp4"}
    assert not {event["name"] for event in drawn if event["pid"] == 1} & {"plan", "vae decode", "text encode", "mp4"}
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in drawn)


def test_ranks_of_one_host_are_on_one_clock(killed: Path) -> None:
    """What both do together they do at the same time: no payload ends on one rank before it began on the other."""
    payloads = [e for e in events(killed) if e["ph"] == "X" and e["name"] == Phase.PAYLOAD]
    for chunk in range(LAST_CHUNK):
        one, other = (e for e in payloads if e["args"].get("chunk") == chunk)
        assert one["ts"] < other["ts"] + other["dur"]
        assert other["ts"] < one["ts"] + one["dur"]
    assert {line.aligned_by for line in read_timeline(killed).values()} == {MONOTONIC}


def test_ranks_of_several_hosts_are_put_together_by_the_time_of_day(killed: Path) -> None:
    lines = read_timeline(killed)
    held = {rank: (line.writer, line.entries) for rank, line in lines.items()}
    elsewhere = Writer(pid=1, host="elsewhere", wall_offset_s=held[0][0].wall_offset_s + 5)
    moved = timeline({0: held[0], 1: (elsewhere, held[1][1])})
    assert (moved[0].aligned_by, moved[1].aligned_by) == (MONOTONIC, TIME_OF_DAY)
    apart_s = (moved[1].shift_s - moved[0].shift_s) - (lines[1].shift_s - lines[0].shift_s)
    assert apart_s == pytest.approx(5, abs=1e-4)


def test_the_span_that_a_killed_rank_was_in_never_ends(killed: Path) -> None:
    unended = [e for e in events(killed) if e["ph"] == "X" and "never ended" in e["args"] and e["pid"] == 1]
    assert [(event["name"], event["args"]["chunk"]) for event in unended] == [(Phase.CALL, LAST_CHUNK)]


def test_each_rank_leaves_an_account_of_itself(killed: Path, alone: Path) -> None:
    accounts = read_rank_files(killed)
    assert [*accounts[1]["memory_bytes"]] == ["ready", "warm"], "a killed rank has no end"
    assert [*accounts[0]["memory_bytes"]] == ["ready", "warm", "exit"]
    for account in accounts.values():
        assert {*account["start_s"]} >= {"launch", "gate 1", "rendezvous", "load", "gate 2a", "warm-up"}
        ready = account["memory_bytes"]["ready"]
        assert 0 < ready["rss"] <= ready["rss_peak"] <= account["memory_bytes"]["warm"]["rss_peak"]
    loaded = {rank: {name.split(".")[1] for name in a["modules"] if "." in name} for rank, a in accounts.items()}
    assert "media" in loaded[0]
    assert "media" not in loaded[1]
    (account,) = read_rank_files(alone).values()
    assert account["calls"]["text encode"] == 2
    assert account["calls"]["vae decode"] == account["calls"]["plan"] == LAST_CHUNK + 1
    assert account["calls"]["denoise"] == STEPS * (LAST_CHUNK + 1)
    assert account["memory_bytes"]["exit"]["rss"] > 0


def test_each_rank_logs_its_events_with_their_ids(killed: Path) -> None:
    def said(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]

    first, worker = said(killed.parent / "stderr.txt"), said(killed / "rank1.log")
    assert {line["rank"] for line in first} == {0}
    assert {line["rank"] for line in worker} == {1}
    assert [line["chunk"] for line in first if line["event"] == "delivered"] == [*range(LAST_CHUNK)]
    assert [line["chunk"] for line in worker if line["event"] == "generated"] == [*range(LAST_CHUNK)]
    failed = [line for line in first if line["event"] == "failed"]
    assert [(line["names"], line["chunk"]) for line in failed] == [(1, LAST_CHUNK)]
    assert "boat" not in (killed / "rank1.log").read_text()
    assert not any("boat" in json.dumps(line) for line in first), "no prompt is in a line"


def test_a_stream_answers_with_metrics_while_it_runs(runs_model: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, runs_model, "generate", *ENDLESS, "--metrics-port", "0", "--profile", "1-2", mesh=0)
    try:
        until(lambda: "metrics: " in run.printed)
        address = run.printed.split("metrics: ")[1].split()[0]

        def figures() -> str:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return str(answer.read().decode())

        until(lambda: re.search(r"^genlock_frames_delivered_total [1-9]\d\d", figures(), flags=re.MULTILINE))
        held = figures()
        assert re.search(r'^genlock_generator_calls_total\{kind="denoise"\} [1-9]', held, flags=re.MULTILINE)
        assert re.search(r'^genlock_rank_memory_bytes\{kind="rss",rank="0"\} [1-9]', held, flags=re.MULTILINE)
        assert re.search(r'^genlock_rank_ready_seconds\{phase="load media",rank="0"\}', held, flags=re.MULTILINE)
        run.process.send_signal(signal.SIGINT)
        assert run.ended() == 0, run.said
        assert "genlock: finishing the chunk in flight" in run.said
        assert run.out.stat().st_size, "what was delivered is kept"
        assert "started" not in run.said, "no line of JSON where none was asked for"
        profile = json.loads((run.run_dir / "profile-rank0.json").read_text())
        assert any("scaled_dot_product" in event.get("name", "") for event in profile["traceEvents"])
        assert read_rank_files(run.run_dir)[0]["memory_bytes"]["exit"], "also of a stream that was interrupted"
    finally:
        run.end()


def test_a_report_knows_what_came_first(killed: Path) -> None:
    held = collect(killed)
    failure = held["failure"]
    assert (failure["code"], failure["rank"], failure["phase"]) == ("GL-RANK-01", 1, Phase.CALL)
    assert [cause["rank"] for cause in held["causes"]] == [0]
    assert (held["figures"]["chunks"], held["figures"]["dropped_chunks"]) == (LAST_CHUNK, 1)


def test_a_chunks_parts_add_up_to_its_period(alone: Path) -> None:
    held = collect(alone)
    assert [chunk[0] for chunk in held["chunks"]] == [*range(LAST_CHUNK + 1)]
    for _, _, _, period, parts in held["chunks"][1:]:
        assert sum(parts.values()) == pytest.approx(period, abs=0.06 * len(PARTS))
    assert held["fits"][0]["formula"] == "G + V + E", "nothing hides where one rank does all"
    assert [*held["about"]["versions"]] == ["genlock", "torch"]
    lived_s = held["ranks"][0]["first_at"] - datetime.fromisoformat(held["started"]).timestamp()
    assert -1 <= lived_s < 60, "the first note comes soon after the process was started"
    assert [asked["words"] for asked in held["asked"]] == ["a red boat at sea", "a blue car at night"]
    assert all(asked["shown_s"] for asked in held["asked"])
    assert [*held["pictures"]] == [*range(LAST_CHUNK + 1)]
