"""`genlock doctor`: what this machine can do, what is missing, which tripwires look, and the remedy for each.

Its text is what a bug report pastes. Every fact is looked up on its own, so that one broken library does not hide the
others. Runs no model.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import click

import genlock
from genlock.errors import GenlockError
from genlock.settings import from_environment, options, origins

REINSTALL = "install it again: pip install -c constraints.txt genlock"
ENCODERS = {"libx264": "writes mp4"}
DECODERS = {"h264": "reads mp4", "hevc": "reads HEVC", "vp9": "reads WebM"}
MIB = 2**20
SOMETHING_MISSING = 4  # a check that ran and whose answer is no


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing found. remedy: empty if it is as it should be, otherwise what to do. off: a tripwire that was left off:
    nothing is missing, and a run is not to be trusted."""

    section: str
    name: str
    value: str
    remedy: str = ""
    off: bool = False

    @property
    def missing(self) -> bool:
        return bool(self.remedy) and not self.off


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts. Default: text. Example: --json.")
@click.pass_context
def command(context: click.Context, /, as_json: bool) -> None:
    """Say what this machine can do, what is missing, and which tripwires look as the settings are.

    \b
    Ends with exit code 4 if something that generating needs is missing. Example:
      genlock doctor
    """
    facts = examine()
    missing = [fact for fact in facts if fact.missing]
    if as_json:
        click.echo(json.dumps({"ok": not missing, "facts": [asdict(fact) for fact in facts]}, indent=2))
    else:
        click.echo(as_text(facts))
    context.exit(SOMETHING_MISSING if missing else 0)


def examine() -> list[Fact]:
    sections = (of_genlock, of_libraries, of_devices, of_video, of_bundled_model, of_settings, of_tripwires)
    return [fact for section in sections for fact in section()]


def as_text(facts: list[Fact]) -> str:
    """The facts in aligned columns by section, then what is missing and what is off. What is off is red."""
    wide = max(len(fact.name) for fact in facts)
    lines: list[str] = []
    section = ""
    for fact in facts:
        if fact.section != section:
            section = fact.section
            lines += ["", section] if lines else [section]
        line = f"  {fact.name:<{wide}}  {fact.value}"
        lines.append(click.style(line, fg="red") if fact.off else line)
    missing = [fact for fact in facts if fact.missing]
    lines.append("")
    if not missing:
        lines.append("nothing is missing")
    lines += [f"missing: {fact.name}: {fact.value}; {fact.remedy}" for fact in missing]
    off = [fact for fact in facts if fact.off]
    lines += [click.style(f"off: {fact.name}; {fact.remedy}", fg="red") for fact in off]
    return "\n".join(lines)


def of_genlock() -> Iterator[Fact]:
    yield Fact(section="genlock", name="genlock", value=genlock.__version__)
    yield Fact(section="genlock", name="python", value=f"{platform.python_version()} ({sys.executable})")
    yield Fact(section="genlock", name="system", value=platform.platform())


def of_libraries() -> Iterator[Fact]:
    """The installed version of every library the package needs."""
    try:
        needed = [line for line in requires("genlock") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        yield Fact(section="libraries", name="genlock", value="not installed", remedy="pip install genlock")
        return
    for line in sorted(needed):
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        try:
            yield Fact(section="libraries", name=name, value=version(name))
        except PackageNotFoundError:
            yield Fact(section="libraries", name=name, value="not installed", remedy=REINSTALL)


def of_devices() -> Iterator[Fact]:
    """Cores, memory and disk; what torch can use of them, and its CUDA devices."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Fact(section="devices", name="cpu", value=f"{cores} cores, {platform.machine()}")
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (os.sysconf(name) * page // MIB for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        yield Fact(section="devices", name="memory", value=f"{total} MiB, {free} MiB of it unused")
    yield Fact(section="devices", name="disk", value=f"{shutil.disk_usage('.').free // MIB} MiB free in this folder")
    try:
        torch = import_module("torch")
        cuda = torch.cuda.is_available()
    except Exception as error:  # noqa: BLE001 - a broken torch can fail in any way, and saying so is this command's work
        yield Fact(section="devices", name="torch", value=f"cannot be loaded: {error}", remedy=REINSTALL)
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU build"
    yield Fact(section="devices", name="torch", value=f"{build}, {torch.get_num_threads()} threads")
    if not cuda:
        yield Fact(section="devices", name="cuda", value="no device: models run on the CPU")
    for index in range(torch.cuda.device_count() if cuda else 0):
        about = torch.cuda.get_device_properties(index)
        value = f"{about.name}, {about.total_memory // MIB} MiB, compute {about.major}.{about.minor}"
        yield Fact(section="devices", name=f"cuda:{index}", value=value)


def of_video() -> Iterator[Fact]:
    """What PyAV can write and read."""
    try:
        av = import_module("av")
    except Exception as error:  # noqa: BLE001 - as for torch
        yield Fact(section="video", name="PyAV", value=f"cannot be loaded: {error}", remedy=REINSTALL)
        return
    libraries = ", ".join(f"{name} {'.'.join(map(str, number))}" for name, number in av.library_versions.items())
    yield Fact(section="video", name="ffmpeg", value=libraries)
    for mode, codecs in (("w", ENCODERS), ("r", DECODERS)):
        for name, purpose in codecs.items():
            try:
                av.Codec(name, mode)
            except ValueError:
                needed = mode == "w" or name == "h264"
                remedy = "install the av wheel, which brings it: pip install --force-reinstall av" if needed else ""
                yield Fact(section="video", name=name, value="not there", remedy=remedy)
            else:
                yield Fact(section="video", name=name, value=purpose)


def of_bundled_model() -> Iterator[Fact]:
    """The files of the model in the package, with their digests (xxh3_128), held against its model.json."""
    section = "bundled model"
    try:
        model_folder = import_module("genlock.generator.model_folder")
        folder = model_folder.read_model_folder(Path(genlock.__file__).parent / "bundled")
    except GenlockError as error:
        yield Fact(section=section, name="model.json", value=error.what, remedy=REINSTALL)
        return
    except ImportError as error:
        yield Fact(section=section, name="model.json", value=f"cannot be read: {error}", remedy=REINSTALL)
        return
    yield Fact(section=section, name="model", value=f"{folder.preset.name}, knows {len(folder.words)} words")
    damaged = folder.damaged()
    for name, digest in folder.digests.items():
        if name in damaged:
            yield Fact(section=section, name=name, value="missing or damaged", remedy=REINSTALL)
        else:
            yield Fact(
                section=section, name=name, value=f"{(folder.path / name).stat().st_size / MIB:.2f} MiB, {digest}"
            )


def of_settings() -> Iterator[Fact]:
    """Every setting, its value and where that comes from."""
    try:
        settings = from_environment()
    except GenlockError as error:
        yield Fact(section="settings", name=error.where, value=error.what, remedy=error.remedy)
        return
    origin = origins()
    for option in options():
        value = f"{getattr(settings, option.name)}, from {origin[option.name]}"
        yield Fact(section="settings", name=option.name, value=value)


def of_tripwires() -> Iterator[Fact]:
    """Every tripwire: how it stands as the settings are, what it costs of a chunk, what it holds off."""
    try:
        settings = from_environment()
        tripwires = import_module("genlock.engine.tripwires")
        stand = {row: tripwires.standing(row, settings) for row in tripwires.TRIPWIRES}
    except GenlockError as error:
        yield Fact(section="tripwires", name=error.where, value=error.what, remedy=error.remedy)
        return
    costs = tripwires.costs()
    for row, now in sorted(stand.items(), key=lambda pair: not pair[0].alone):
        share = costs.get(row.cost) if now.looks else None
        cost = "" if share is None else f", {100 * share:.3f}% of a chunk"
        more = f" ({now.remedy})" if now.remedy else ""
        yield Fact(
            section="tripwires of every run" if row.alone else "tripwires of a mesh",
            name=row.name,
            value=f"{row.code:<13}{now.words}{cost}{more}",
            remedy=now.remedy if now.off else "",
            off=now.off,
        )
