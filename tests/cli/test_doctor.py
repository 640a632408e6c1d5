"""`genlock doctor`: facts of this machine, and what is missing with its remedy."""

from __future__ import annotations

import json
import re

import pytest

from genlock.cli.doctor import Fact, as_text

TRIPWIRES = ["tripwires of every run", "tripwires of a mesh"]


def test_every_section_is_there_and_scripts_can_read_it(desk) -> None:
    code, out, _ = desk.run("doctor", "--json")
    told = json.loads(out)
    assert code == (0 if told["ok"] else 4)
    sections = dict.fromkeys(fact["section"] for fact in told["facts"])
    assert list(sections) == ["genlock", "libraries", "devices", "video", "bundled model", "settings", *TRIPWIRES]
    values = {fact["name"]: fact["value"] for fact in told["facts"]}
    assert "frames" not in values
    assert values["libx264"] == "writes mp4"
    assert values["torch"].endswith("threads")


def test_a_bad_setting_is_told_and_does_not_hide_the_rest(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLOCK_DEVISE", "cpu")
    code, out, _ = desk.run("doctor")
    assert code == 4
    assert "missing: environment: there is no setting GENLOCK_DEVISE; did you mean GENLOCK_DEVICE?" in out
    assert "libx264" in out


def test_where_a_setting_comes_from_is_told(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLOCK_STRICT", "0")
    lines = [" ".join(line.split()) for line in desk.run("doctor")[1].splitlines()]
    assert "strict False, from GENLOCK_STRICT" in lines
    assert "device auto, from default" in lines


def test_which_tripwires_look_and_which_do_not_is_told_with_the_way_back(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [" ".join(line.split()) for line in desk.run("doctor")[1].splitlines()]
    assert any(
        re.fullmatch(r"kv GL-MESH-03 every 16 chunks, 0\.\d+% of a chunk \(GENLOCK_CHECK_EVERY=1: .*\)", line)
        for line in usual
    )
    assert "partials GL-COLL-01 in bring-up mode only (GENLOCK_BRING_UP=1: for a new machine or a hunt)" in usual
    assert not any(line.startswith("off:") for line in usual)
    monkeypatch.setenv("GENLOCK_STRICT", "0")
    monkeypatch.setenv("GENLOCK_GUARDS_OFF", "kv,gates")
    code, out, _ = desk.run("doctor")
    assert code == 0, "nothing is missing"
    assert "off: finite; set GENLOCK_STRICT=1" in out
    assert "off: kv; unset GENLOCK_GUARDS_OFF" in out
    told = json.loads(desk.run("doctor", "--json")[1])
    assert {fact["name"] for fact in told["facts"] if fact["off"]} == {"finite", "partials", "kv", "gates"}
    monkeypatch.setenv("GENLOCK_GUARDS_OFF", "everything")
    code, out, _ = desk.run("doctor")
    assert code == 4
    assert "missing: GENLOCK_GUARDS_OFF: 'everything' is no list of tripwires; choose from gates, " in out


def test_what_is_off_is_red_on_a_terminal() -> None:
    gone = Fact(section="tripwires", name="kv", value="OFF", remedy="unset it", off=True)
    assert as_text([gone]).splitlines()[-1] == "\x1b[31moff: kv; unset it\x1b[0m"


def test_what_is_missing_closes_the_text() -> None:
    here = Fact(section="video", name="h264", value="reads mp4")
    gone = Fact(section="video", name="libx264", value="not there", remedy="install it")
    assert as_text([here]).endswith("nothing is missing")
    assert as_text([here, gone]).endswith("missing: libx264: not there; install it")
