"""`genlock doctor`: facts of this machine, and what is missing with its remedy."""

from __future__ import annotations

import json

import pytest

from genlock.cli.doctor import Fact, as_text


def test_every_section_is_there_and_scripts_can_read_it(desk) -> None:
    code, out, _ = desk.run("doctor", "--json")
    told = json.loads(out)
    assert code == (0 if told["ok"] else 4)
    sections = dict.fromkeys(fact["section"] for fact in told["facts"])
    assert list(sections) == ["genlock", "libraries", "devices", "video", "bundled model", "settings"]
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


def test_where_a_setting_comes_from_is_told_and_a_tripwire_that_is_off(desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLOCK_STRICT", "0")
    lines = [" ".join(line.split()) for line in desk.run("doctor")[1].splitlines()]
    assert "strict False, from GENLOCK_STRICT (a tripwire is off)" in lines
    assert "device auto, from default" in lines


def test_what_is_missing_closes_the_text() -> None:
    here = Fact(section="video", name="h264", value="reads mp4")
    gone = Fact(section="video", name="libx264", value="not there", remedy="install it")
    assert as_text([here]).endswith("nothing is missing")
    assert as_text([here, gone]).endswith("missing: libx264: not there; install it")
