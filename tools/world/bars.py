"""The bars the bundled model is held to: what was seen, as rows with a bar, a figure and whether it is met. Pure.

A *record* is what one stream gave, plain JSON: {"kind", "number", "named": {moment: [[value of each factor], ...]},
"rendered": the same for the renderer's pictures, "asked": {moment: [value of each factor]}, ...}; see streams.py.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .takes import FACTOR_NAMES

Record = Mapping[str, Any]

FRESH = 98.0
CODED_LOSS = 2.0
PSNR_DB, PSNR_FADE_DB = 30.0, 0.5
STEADY = {"place": 95.0, "light": 95.0, "weather": 92.0, "colour": 92.0, "subject": 88.0, "motion": 88.0}
ALL_SIX = 65.0
CHANGED, UNCHANGED_LOSS = 88.0, 3.0
CUT = 88.0
MINUTE_LOSS, MINUTE_DRIFT = 4.0, 3.0
CHANCE_SLACK = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """bar: in words, empty if nothing is asked of it. figure: None if nothing was measured. rendered: the same figure
    of the renderer's own pictures. ok: None without a bar."""

    group: str
    name: str
    bar: str = ""
    figure: float | None
    unit: str = "%"
    rendered: float | None = None
    ok: bool | None = None


def at_least(group: str, name: str, bar: float, figure: float | None, **more: Any) -> Row:
    """A row whose figure may not be lower; what was not measured is not met."""
    unit = more.get("unit", "%")
    met = figure is not None and figure >= bar
    return Row(group=group, name=name, bar=f">= {bar:g} {unit}", figure=figure, ok=met, **more)


def at_most(group: str, name: str, bar: float, figure: float | None, **more: Any) -> Row:
    unit = more.get("unit", "%")
    met = figure is not None and figure <= bar
    return Row(group=group, name=name, bar=f"<= {bar:g} {unit}", figure=figure, ok=met, **more)


def rows(records: Sequence[Record], evaluator: Mapping[str, Any], values: Mapping[str, Sequence[str]]) -> list[Row]:
    """Every row. evaluator: shares by factor as `fresh`, `plain`, `coded`, and `psnr` by frame. values: the classes."""
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(record["kind"], []).append(record)
    main = kinds.pop("question", [])
    minute = kinds.pop("minute", [])
    return [
        *_evaluator(evaluator),
        *_steady(main),
        *_change(main),
        *_cut(main),
        *_minute(minute),
        *_shuffled(main, values),
        *_looks(main),
        *[row for kind in sorted(kinds) for row in _others(kind, kinds[kind], main)],
    ]


def share(records: Iterable[Record], moment: str, factor: str, source: str = "named") -> float | None:
    """Per cent of the windows of a moment in which a factor was seen as asked; None without windows."""
    index = FACTOR_NAMES.index(factor)
    hits = [seen[index] == record["asked"][moment][index] for record in records for seen in record[source][moment]]
    return per_cent(hits)


def per_cent(hits: Sequence[bool]) -> float | None:
    return 100.0 * sum(hits) / len(hits) if hits else None


def loss(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def agreement_when_shuffled(seen: Sequence[str], asked: Sequence[str]) -> float | None:
    """Per cent of agreement between what was seen and the captions of all *other* streams: no draw, the mean of all."""
    count = len(seen)
    if count < 2:
        return None
    said = Counter(asked)
    hits = sum(said[value] - (value == own) for value, own in zip(seen, asked, strict=True))
    return 100.0 * hits / (count * (count - 1))


def confusions(records: Iterable[Record], moment: str) -> dict[str, dict[str, int]]:
    """By factor, how often what was asked was seen as something else: {"asked -> seen": windows}."""
    counted: dict[str, Counter[str]] = {name: Counter() for name in FACTOR_NAMES}
    for record in records:
        for seen in record["named"][moment]:
            for name, asked, value in zip(FACTOR_NAMES, record["asked"][moment], seen, strict=True):
                if asked != value:
                    counted[name][f"{asked} -> {value}"] += 1
    return {name: dict(counter.most_common()) for name, counter in counted.items()}


def _evaluator(found: Mapping[str, Any]) -> list[Row]:
    fresh, plain, coded, psnr = found["fresh"], found["plain"], found["coded"], found["psnr"]
    group = "the evaluator"
    out = [at_least(group, f"fresh renders, {name}", FRESH, fresh.get(name)) for name in FACTOR_NAMES]
    group = "the VAE, fresh renders there and back, 33 frames"
    fade = psnr[9] - psnr[-1] if len(psnr) > 10 else None
    mean = statistics.fmean(psnr) if psnr else None
    out.append(at_least(group, "PSNR", PSNR_DB, mean, unit="dB"))
    out.append(at_most(group, "tenth frame's PSNR less the last one's", PSNR_FADE_DB, fade, unit="dB"))
    for name in FACTOR_NAMES:
        lost = loss(plain.get(name), coded.get(name))
        out.append(at_most(group, f"the evaluator loses, {name}", CODED_LOSS, lost, unit="points"))
    return out


def _steady(main: Sequence[Record]) -> list[Row]:
    group = "seconds 2 to 4, held-out prompts"
    out = [
        at_least(group, name, bar, share(main, "steady", name), rendered=share(main, "steady", name, source="rendered"))
        for name, bar in STEADY.items()
    ]
    six = {
        source: per_cent([seen == r["asked"]["steady"] for r in main for seen in r[source]["steady"]])
        for source in ("named", "rendered")
    }
    out.append(at_least(group, "all six at once", ALL_SIX, six["named"], rendered=six["rendered"]))
    tracked = {
        source: per_cent(
            [seen == r["asked"]["steady"][FACTOR_NAMES.index("motion")] for r in main for seen in r[source]["steady"]]
        )
        for source in ("tracked", "tracked_rendered")
    }
    name = "motion, by tracking the subject's colour"
    out.append(Row(group=group, name=name, figure=tracked["tracked"], rendered=tracked["tracked_rendered"]))
    return out


def _change(main: Sequence[Record]) -> list[Row]:
    group = "second chunk after a prompt change"
    at = {name: index for index, name in enumerate(FACTOR_NAMES)}
    right = {
        source: [r[source]["after"][0][at[r["changed"]]] == r["asked"]["after"][at[r["changed"]]] for r in main]
        for source in ("named", "rendered")
    }
    out = [
        at_least(group, "the changed factor", CHANGED, per_cent(right["named"]), rendered=per_cent(right["rendered"]))
    ]
    lost = {}
    for name in FACTOR_NAMES:
        same = [record for record in main if record["changed"] != name]
        before, after = share(same, "steady", name), share(same, "after", name)
        lost[name] = loss(before, after)
    known = [value for value in lost.values() if value is not None]
    mean = statistics.fmean(known) if known else None
    out.append(at_most(group, "the unchanged factors lose, mean", UNCHANGED_LOSS, mean, unit="points"))
    for name in FACTOR_NAMES:
        mine = [record for record in main if record["changed"] == name]
        out.append(
            Row(
                group=group,
                name=f"where {name} changed: {name}",
                figure=share(mine, "after", name),
                rendered=share(mine, "after", name, source="rendered"),
            )
        )
    out += [
        Row(group=group, name=f"where {name} did not change: loss", figure=value, unit="points")
        for name, value in lost.items()
    ]
    return out


def _cut(main: Sequence[Record]) -> list[Row]:
    group = "first chunk after a hard cut"
    out = []
    for name in ("place", "subject", "colour", "light", "weather"):
        figure, rendered = share(main, "cut", name), share(main, "cut", name, source="rendered")
        if name in ("place", "subject"):
            out.append(at_least(group, name, CUT, figure, rendered=rendered))
        else:
            out.append(Row(group=group, name=name, figure=figure, rendered=rendered))
    return out


def _minute(minute: Sequence[Record]) -> list[Row]:
    group = "one minute later, nothing changed"
    out = []
    for name in FACTOR_NAMES:
        lost = loss(share(minute, "steady", name), share(minute, "late", name))
        reference = loss(share(minute, "steady", name, "rendered"), share(minute, "late", name, "rendered"))
        out.append(at_most(group, f"{name} loses", MINUTE_LOSS, lost, unit="points", rendered=reference))
    drifts = [abs(value) for record in minute for value in record["drift"]]
    out.append(at_most(group, "mean colour drift", MINUTE_DRIFT, 100.0 * statistics.fmean(drifts) if drifts else None))
    return out


def _shuffled(main: Sequence[Record], values: Mapping[str, Sequence[str]]) -> list[Row]:
    group = "captions shuffled: chance and no more"
    out = []
    for index, name in enumerate(FACTOR_NAMES):
        seen = [record["named"]["steady"][0][index] for record in main]
        asked = [record["asked"]["steady"][index] for record in main]
        chance = 100.0 / len(values[name])
        figure = agreement_when_shuffled(seen, asked)
        met = figure is not None and abs(figure - chance) <= CHANCE_SLACK
        out.append(Row(group=group, name=name, bar=f"{chance:.3g} +- {CHANCE_SLACK:g} %", figure=figure, ok=met))
    return out


def _looks(main: Sequence[Record]) -> list[Row]:
    """What is not asked but should be looked at."""

    def middle(key: str) -> float | None:
        return statistics.median(record["looks"][key] for record in main) if main else None

    group = "looks, seconds 2 to 4, medians"
    return [
        Row(group=group, name="PSNR against the renderer", figure=middle("psnr"), unit="dB"),
        Row(group=group, name="edges, share of the renderer's", figure=middle("edges")),
        Row(
            group=group,
            name="a chunk's border against other steps",
            figure=middle("border"),
            rendered=middle("border_rendered"),
        ),
        Row(group=group, name="time of a chunk", figure=middle("chunk_s"), unit="s"),
    ]


def _others(kind: str, records: Sequence[Record], main: Sequence[Record]) -> list[Row]:
    """Another regime on some of the questions, beside the same questions as they are judged."""
    numbers = {record["number"] for record in records}
    same = [record for record in main if record["number"] in numbers]
    out = []
    for name in FACTOR_NAMES:
        usual = share(same, "steady", name)
        beside = "" if usual is None else f" (as judged: {usual:.1f})"
        figure = share(records, "steady", name)
        out.append(Row(group=f"{kind}, seconds 2 to 4: reported only", name=f"{name}{beside}", figure=figure))
    return out
