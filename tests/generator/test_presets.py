"""Presets say everything, and a model folder says which one is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genlock.errors import CheckpointConfig, CheckpointMissing, CheckpointUnreadable, UsageError
from genlock.generator.model_folder import FILES, read_model_folder, write_model_folder
from genlock.generator.presets import PRESETS, Preset, preset
from genlock.generator.window import Policy


def test_published_sizes() -> None:
    assert [(p.generator.dim, p.generator.num_heads, p.generator.num_layers) for p in PRESETS.values()] == [
        (1536, 12, 30),
        (1536, 12, 30),
        (5120, 40, 40),
    ]
    assert {p.generator.head_dim for p in PRESETS.values()} == {128}
    assert PRESETS["krea-14b"].generator.rope_split == (44, 42, 42)
    long_live = PRESETS["longlive-1.3b"].cache
    assert (long_live.policy, long_live.window_frames, long_live.sink_frames) == (Policy.ROLLING, 12, 3)
    assert long_live.recache_on_prompt
    assert PRESETS["self-forcing-1.3b"].cache.window_frames == 21


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean krea-14b\?"):
        preset("krea14b")


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": ()},
        {"steps": (1001,)},
        {"attention_bias": 0.0},
        {"regime": None},
        {"shift": 0.0},
        {"height": 100},
    ],
)
def test_a_preset_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"GL-"):
        replace(PRESETS["krea-14b"], **wrong)


@pytest.fixture(params=sorted(PRESETS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name in FILES.values():
        (tmp_path / name).write_bytes(name.encode())
    phrases = {"subjects": ["boat"]}
    write_model_folder(tmp_path, PRESETS[request.param], words=["a", "boat"], phrases=phrases, example="a boat")
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    read = read_model_folder(folder)
    assert read.preset == PRESETS[read.preset.name]
    assert read.words == ("a", "boat")
    assert (read.phrases, read.example) == ({"subjects": ["boat"]}, "a boat")
    assert read.damaged() == []
    (folder / "vae.safetensors").write_bytes(b"another")
    assert read.damaged() == ["vae.safetensors"]


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda c: c.update(colour=1), "unknown key 'colour'"),
    "missing key": (lambda c: c.pop("words"), "missing key 'words'"),
    "format": (lambda c: c.update(format=7), "format 7"),
    "unknown setting": (lambda c: c["preset"].update(speed=1), "unknown key 'speed'"),
    "missing size": (lambda c: c["preset"]["generator"].pop("dim"), "missing key 'dim'"),
    "no heads": (lambda c: c["preset"]["generator"].update(num_heads=0), "preset.generator.num_heads cannot be 0"),
    "policy": (lambda c: c["preset"]["cache"].update(policy="lru"), "preset.cache.policy cannot be 'lru'"),
    "regime": (lambda c: c["preset"].update(regime="R9"), "preset.regime cannot be 'R9'"),
    "steps": (lambda c: c["preset"].update(steps=[1000, True]), "preset.steps cannot be True"),
    "size": (lambda c: c["preset"].update(height=100), "832x100 pixels"),
    "file elsewhere": (lambda c: c["files"].update(vae="../vae.safetensors"), "files.vae '../vae.safetensors'"),
    "digest": (lambda c: c["digests"].update({"vae.safetensors": "12"}), "32 hexadecimal digits"),
    "foreign digest": (lambda c: c["digests"].update({"x": "0" * 32}), "'x', which is not one of the files"),
    "words": (lambda c: c.update(words="sea"), "words is no list"),
    "phrases": (lambda c: c.update(phrases={"subjects": "boat"}), "phrases are not lists of phrases by kind"),
    "example": (lambda c: c.update(example=1), "example is no prompt"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_planted_defect_in_model_json_is_named(folder: Path, edit: str) -> None:
    path = folder / "model.json"
    content = json.loads(path.read_text())
    change, words = EDITS[edit]
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointConfig, match=re.escape(words)):
        read_model_folder(folder)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value of a JSON document."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [path] * bool(path) + [place for key in keys for place in places(content[key], (*path, key))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_other_value_anywhere_is_read_as_its_type_or_refused_in_one_line(folder: Path, data: st.DataObject) -> None:
    path = folder / "model.json"
    whole = path.read_text()
    content = json.loads(whole)
    *way, last = data.draw(st.sampled_from(places(content)))
    inside = content
    for key in way:
        inside = inside[key]
    inside[last] = data.draw(ANYTHING)
    try:
        path.write_text(json.dumps(content))
        read = read_model_folder(folder)
    except CheckpointConfig as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 - a refusal is one of two right answers
        assert "model.json" in str(refusal)  # noqa: PT017
    else:
        assert json.loads(json.dumps(asdict(read.preset))) == content["preset"]
    finally:
        path.write_text(whole)


def test_what_is_said_for_people_may_be_left_out(folder: Path) -> None:
    content = json.loads((folder / "model.json").read_text())
    del content["phrases"], content["example"]
    (folder / "model.json").write_text(json.dumps(content))
    assert (read_model_folder(folder).phrases, read_model_folder(folder).example) == ({}, "")


def test_a_folder_without_model_json_and_one_with_no_json_in_it(folder: Path, tmp_path: Path) -> None:
    (folder / "model.json").write_text("{")
    with pytest.raises(CheckpointUnreadable, match="not JSON"):
        read_model_folder(folder)
    (folder / "model.json").unlink()
    with pytest.raises(CheckpointMissing, match=r"no model\.json"):
        read_model_folder(tmp_path)


def test_every_preset_is_whole() -> None:
    assert all(isinstance(each, Preset) and each.title for each in PRESETS.values())
