"""The operator's pages say what the code does: whatever a page names is there, and every error has its place.

The checks are functions of a page's text, so that a defect planted in a text shows that each can find one. Nothing is
run: commands are parsed, tests are looked up, and what an operator reads is held against the strings of the named file.

A tripwire's words are written as the code writes them, with `…` where a value stands.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path

import click
import pytest

from genlock import errors
from genlock.cli.main import cli
from genlock.drills.catalogue import CATALOGUE
from genlock.drills.runs import GONE_BOUND_S, KILL_BOUND_S, STOP_BOUND_S, D
from genlock.engine.first_cause import Seen
from genlock.errors import GenlockError
from genlock.observe.beacon import Beacon
from genlock.observe.cause import Cause
from genlock.observe.metrics import METRICS, PREFIX
from genlock.observe.recorder import Entry
from genlock.settings import READ_ELSEWHERE, FaultKind, Phase, faults_from, options, settings_from
from genlock.wire.verdict import Verdict

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
MANUALS = sorted((ROOT / "docs" / "operator").glob("*.md"))
FACTS = sorted((ROOT / "docs" / "facts").glob("*.md"))
HOW_TOS = sorted((ROOT / "docs" / "how-to").glob("*.md"))
CROSSWALK = ROOT / "docs" / "operator" / "crosswalk.md"

PARTS = ["Contract", "Tripwires", "Break-it tests", "Instrumentation", "Facts"]
LINES_MOST = 130
TRIPWIRES = ("code", "condition", "first asserted", "seen by", "what is read", "remedy")
BREAKS = ("break it", "injected", "code", "rank, field", "within", "without the guard")
METERS = ("field", "unit", "healthy", "illness")
CARD = ("what is so", "shown by")
RECORDS = {kind.__name__: kind for kind in (Beacon, Cause, Entry, Seen, Verdict)}
NAMES_OF_METRICS = frozenset(metric.exposed for metric in METRICS)
NEVER_RAISED = "genlock/errors.py"  # a row that points here says that nobody raises the class itself
STRIKE_IN = {FaultKind.REFUSE: Phase.ACCEPT}  # every phase: kill and stop; generator call: the rest
EVERYWHERE = (FaultKind.KILL, FaultKind.STOP)
MESH = 2
WITHIN = {FaultKind.KILL: f"{KILL_BOUND_S:g} s", FaultKind.STOP: f"D + {STOP_BOUND_S - D:g} s"}
DRILLS = {drill.name: drill for drill in CATALOGUE}
# As the drills show: the error of each fault that a page plants, and the field it names.
ENDS_AS: dict[FaultKind, tuple[type[GenlockError], str]] = {
    FaultKind.KILL: (errors.RankDied, ""),
    FaultKind.STOP: (errors.RankSilent, ""),
    FaultKind.REFUSE: (errors.PeerRefused, "seed"),
    FaultKind.SKIP_CALL: (errors.CallCount, ""),
    FaultKind.EXTRA_CALL: (errors.CallCount, ""),
    FaultKind.CHANGE_INPUT: (errors.MeshDisagrees, "inputs"),
    FaultKind.CHANGE_WEIGHT: (errors.MeshDisagrees, "weights"),
    FaultKind.CHANGE_KV: (errors.MeshDisagrees, "kv"),
}

SPAN = re.compile(r"`([^`]+)`")
PLACE = re.compile(r"(genlock/[\w/]+\.py):([\w.]+)")
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")
READ = re.compile(r"read, not run: [^|]*\d+\.\d+[^|]*`[\w./-]+`")
MEASURED = re.compile(r"measured: [^|]*`(benchmarks/results/[\w.-]+)`")

Row = dict[str, str]


# -- what a page holds -----------------------------------------------------------------------------------------------


def tables(text: str) -> Iterator[list[Row]]:
    for block in re.findall(r"(?:^\|.*\n)+", text + "\n", flags=re.MULTILINE):
        head, _, *rest = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        yield [dict(zip(head, cells, strict=True)) for cells in rest]


def rows(text: str, head: tuple[str, ...]) -> list[Row]:
    return [row for table in tables(text) for row in table if tuple(row) == head]


def commands(text: str) -> Iterator[list[str]]:
    """Every line of the `sh` blocks and every code span that runs `genlock` or sets a variable for it, as words."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    outside = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in [*lines, *SPAN.findall(outside)]:
        if re.match(r"(GENLOCK_\w+=|genlock( |$)|python -m .*genlock)", line):
            yield shlex.split(line, comments=True)


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((SRC / file).read_text())


def found(file: str, dotted: str) -> ast.AST | None:
    if not (SRC / file).is_file():
        return None
    node: ast.AST = tree(file)
    for name in dotted.split("."):
        inner = [each for each in getattr(node, "body", []) if getattr(each, "name", None) == name]
        if not inner:
            return None
        node = inner[0]
    return node


def names_in(node: ast.AST) -> set[str]:
    """Names and attributes, without annotations and docstrings."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} | {
        each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)
    }


@cache
def defined(file: str) -> Mapping[str, ast.AST]:
    """Functions and methods of a file by their own name, and those of genlock that it imports."""
    functions: dict[str, ast.AST] = {}
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genlock."):
            source = f"{(node.module or '').replace('.', '/')}.py"
            for alias in node.names:
                other = found(source, alias.name)
                if isinstance(other, ast.FunctionDef):
                    functions.setdefault(alias.asname or alias.name, other)
    return functions


def mentions(file: str, node: ast.AST, name: str) -> bool:
    """Whether a function speaks of an error's class, itself or in a function that it calls."""
    said = names_in(node)
    return name in said or any(name in names_in(helper) for called, helper in defined(file).items() if called in said)


@cache
def strings(file: str) -> tuple[str, ...]:
    """Every string of a file, a value in it as `…`."""
    made = []
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            made.append(node.value)
        if isinstance(node, ast.JoinedStr):
            made.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
    return tuple(made)


def every_error(base: type[GenlockError] = GenlockError) -> Iterator[type[GenlockError]]:
    yield base
    for sub in base.__subclasses__():
        yield from every_error(sub)


CLASS_OF = {kind.code: kind.__name__ for kind in every_error() if kind.__module__ == errors.__name__}


@cache
def raised_anywhere(name: str) -> bool:
    calls = (
        node
        for path in SRC.rglob("*.py")
        for node in ast.walk(tree(path.relative_to(SRC).as_posix()))
        if isinstance(node, ast.Call)
    )
    return any(isinstance(call.func, ast.Name) and call.func.id == name for call in calls)


@cache
def named_tests(file: str) -> frozenset[str]:
    path = ROOT / file
    body = ast.walk(ast.parse(path.read_text())) if path.is_file() else ()
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef))


@cache
def anchors(path: Path) -> frozenset[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


# -- what can be wrong with it ---------------------------------------------------------------------------------------


def wrong_codes(pages: Mapping[str, str]) -> list[str]:
    """Every code stands in exactly one tripwire table of all pages."""
    placed = [row["code"] for text in pages.values() for row in rows(text, TRIPWIRES)]
    wrong = [f"{code} is no error's" for code in placed if code not in CLASS_OF]
    return wrong + [f"{code} stands in {placed.count(code)} tables" for code in CLASS_OF if placed.count(code) != 1]


def wrong_places(text: str) -> list[str]:
    """The functions of a tripwire are there, and each can raise what it is said to raise."""
    wrong = []
    for row in rows(text, TRIPWIRES):
        name = CLASS_OF.get(row["code"], "")
        places = PLACE.findall(row["first asserted"])
        if not places:
            wrong.append(f"{row['code']}: no place")
        for file, dotted in places:
            node = found(file, dotted)
            if node is None:
                wrong.append(f"{row['code']}: there is no {dotted} in {file}")
            elif file == NEVER_RAISED:
                if dotted != name or raised_anywhere(name):
                    wrong.append(f"{row['code']}: {name} is raised by somebody")
            elif not mentions(file, node, name):
                wrong.append(f"{row['code']}: {dotted} in {file} does not speak of {name}")
    return wrong


def wrong_words(text: str) -> list[str]:
    """What is read stands in a file that the row names."""
    wrong = []
    for row in rows(text, TRIPWIRES):
        files = {file for file, _ in PLACE.findall(row["first asserted"]) if (SRC / file).is_file()}
        words = SPAN.findall(row["what is read"].replace(r"\|", "|"))
        if not words and files != {NEVER_RAISED}:
            wrong.append(f"{row['code']}: nothing is read")
        said = [string for file in files for string in strings(file)]
        wrong += [f"{row['code']}: nobody says {each!r}" for each in words if not any(each in one for one in said)]
    return wrong


def wrong_commands(text: str) -> list[str]:
    """Variables in front are settings with values that they take, and the rest parses."""
    wrong = []
    for words in commands(text):
        given = dict(word.split("=", 1) for word in words if ASSIGNMENT.match(word))
        given = {name: value for name, value in given.items() if name.startswith("GENLOCK_")}
        rest = words[next((n for n, word in enumerate(words) if not ASSIGNMENT.match(word)), len(words)) :]
        try:
            settings = settings_from({name: value for name, value in given.items() if name not in READ_ELSEWHERE})
            faults_from(settings.faults)
            if "genlock" in rest:
                parse(rest[rest.index("genlock") + 1 :])
        except (GenlockError, click.ClickException) as error:
            wrong.append(f"{' '.join(words)}: {error}")
    return wrong


def parse(words: list[str]) -> None:
    """A command's name alone is a mention; with flags or arguments all of it must be right."""
    if not words or words == ["--version"]:
        return
    top = click.Context(cli)
    command = cli.get_command(top, words[0])
    if command is None:
        raise click.UsageError(f"there is no command {words[0]}")
    if len(words) > 1:
        context = command.make_context(words[0], words[1:], parent=top)
        if isinstance(command, click.Group):
            inner = command.get_command(context, words[1])
            if inner is None:
                raise click.UsageError(f"there is no command {words[1]}")
            inner.make_context(words[1], words[2:], parent=context)


def wrong_variables(text: str) -> list[str]:
    known = {option.variable for option in options()} | READ_ELSEWHERE.keys()
    return [f"there is no variable {name}" for name in re.findall(r"GENLOCK_[A-Z_]+", text) if name not in known]


def wrong_tests(text: str) -> list[str]:
    return [f"there is no {name} in {file}" for file, name in TEST.findall(text) if name not in named_tests(file)]


def wrong_links(path: Path, text: str) -> list[str]:
    wrong = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        place = path.parent / target if target else path
        if "://" not in target and (not place.exists() or (anchor and anchor not in anchors(place))):
            wrong.append(f"{target}#{anchor} leads nowhere")
    return wrong


def wrong_breaks(text: str) -> list[str]:
    """A row is broken by a fault that strikes where it is planted, by a drill, or by a test; and has all its cells."""
    wrong = []
    for row in rows(text, BREAKS):
        way = SPAN.findall(row["break it"])
        faults = re.fullmatch(r'GENLOCK_FAULTS="([^"]+)"', way[0]) if way else None
        if not way or not (faults or TEST.fullmatch(way[0]) or way[0].startswith("genlock drill ")):
            wrong.append(f"{row['break it']!r} is no fault, drill or test")
        if faults:
            wrong += [f"{way[0]}: {why}" for why in [*idle_faults(faults[1]), *wrong_ends(faults[1], row)]]
        if way and way[0].startswith("genlock drill "):
            wrong += wrong_drill(way[0].removeprefix("genlock drill "), row)
        wrong += [f"{code} is no error's" for code in re.findall(r"GL-[A-Z0-9-]+", row["code"]) if code not in CLASS_OF]
        wrong += [f"{row['break it']}: {name} is empty" for name, cell in row.items() if not cell]
    return wrong


def wrong_drill(name: str, row: Row) -> list[str]:
    """Where a row says another end of a drill than its cases."""
    if name not in DRILLS:
        return [f"there is no drill {name}"]
    drill = DRILLS[name]
    ends = {f"exit code {case.code}" for case in drill.cases}
    wrong = [f"{name} does not end with {end}" for end in re.findall(r"exit code \d+", row["code"]) if end not in ends]
    said = re.match(r"(D \+ )?(\d+) s(?=;|$)", row["within"])
    if said and int(said[2]) + (D if said[1] else 0) not in {case.bound_s for case in drill.cases}:
        wrong.append(f"{name}: {said[0]} is no bound of its cases")
    shown = "--without-guard" in row["without the guard"]
    return wrong + ([f"{name} has no run without its guard"] if shown and not drill.without else [])


def missing_drills(texts: Mapping[str, str]) -> list[str]:
    """Drills with cases that stand in no table."""
    tables = [row["break it"] for text in texts.values() for row in rows(text, BREAKS)]
    there = {span for cell in tables for span in SPAN.findall(cell)}
    names = [drill.name for drill in CATALOGUE if drill.cases]
    return [f"{name} stands in no table" for name in names if f"genlock drill {name}" not in there]


def idle_faults(text: str) -> Iterator[str]:
    """Why a planted fault would never strike."""
    try:
        planted = faults_from(text).planted
    except GenlockError as error:
        yield error.what
        return
    for fault in planted:
        phase = STRIKE_IN.get(fault.kind, Phase.CALL)
        if fault.kind not in EVERYWHERE and fault.phase is not phase:
            yield f"{fault.kind} strikes in {phase}"
        if fault.rank >= MESH:
            yield f"a mesh of {MESH} has no rank {fault.rank}"


def wrong_ends(text: str, row: Row) -> Iterator[str]:
    """Where a row says another end of its fault than the mesh's tests do."""
    try:
        (fault,) = faults_from(text).planted
    except GenlockError:
        return  # said by `idle_faults`
    error, field = ENDS_AS[fault.kind]
    for name, wanted in (
        ("code", f"{error.code}, exit code {error.exit_code}"),
        ("rank, field", ", ".join([str(fault.rank), *([field] if field else [])])),
        ("within", WITHIN.get(fault.kind, row["within"])),
    ):
        if row[name] != wanted:
            yield f"{name} is {row[name]}, not {wanted}"


def wrong_meters(text: str) -> list[str]:
    """What is to be looked at is a field of a record, or the words of a function."""
    wrong = []
    for row in rows(text, METERS):
        for span in SPAN.findall(row["field"]):
            record, _, name = span.partition(".")
            place = PLACE.fullmatch(span)
            if place:
                known = found(*place.groups()) is not None
            elif span.startswith(PREFIX):
                known = span in NAMES_OF_METRICS
            elif record in RECORDS:
                known = name in {each.name for each in fields(RECORDS[record])}
            else:
                known = span.split(" ")[0] == "genlock"  # a command, parsed above
            wrong += [] if known else [f"there is no {span}"]
        wrong += [] if SPAN.search(row["field"]) else [f"{row['field']!r} names nothing"]
    return wrong


def wrong_facts(text: str) -> list[str]:
    """Every fact names a test, figures that are kept, or the source where it was read."""
    listed = rows(text, CARD)
    unproved = [row["what is so"] for row in listed if not shown(row["shown by"])]
    return [f"{what}: shown by nothing" for what in unproved] + ([] if listed else ["a card without facts"])


def shown(proof: str) -> bool:
    figures = MEASURED.findall(proof)
    return all((ROOT / kept).is_file() for kept in figures) and bool(
        figures or TEST.search(proof) or READ.search(proof)
    )


def wrong_form(text: str) -> list[str]:
    parts = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    wrong = [] if parts == PARTS else [f"its parts are {parts}"]
    numbers = re.findall(r"^(\d+)\. ", text, flags=re.MULTILINE)
    wrong += [] if numbers and numbers == [str(n) for n in range(1, len(numbers) + 1)] else ["the contract's numbers"]
    wrong += [f"no table of {head[0]}" for head in (TRIPWIRES, BREAKS, METERS) if not rows(text, head)]
    length = len(text.splitlines())
    return wrong + ([f"{length} lines"] if length > LINES_MOST else [])


# -- the pages -------------------------------------------------------------------------------------------------------

READABLE = [*MANUALS, *FACTS, *HOW_TOS]
OF_A_TEXT: list[Callable[[str], list[str]]] = [
    wrong_places,
    wrong_words,
    wrong_commands,
    wrong_variables,
    wrong_tests,
    wrong_breaks,
    wrong_meters,
]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "docs").as_posix()


def test_every_metric_stands_in_a_table_of_instruments() -> None:
    named = {span for path in MANUALS for row in rows(path.read_text(), METERS) for span in SPAN.findall(row["field"])}
    assert named >= NAMES_OF_METRICS, "who is woken by a metric must find what it means"


def test_every_code_stands_in_one_tripwire_table() -> None:
    assert wrong_codes({name_of(path): path.read_text() for path in MANUALS}) == []


@pytest.mark.parametrize("path", READABLE, ids=name_of)
def test_what_a_page_names_is_there(path: Path) -> None:
    text = path.read_text()
    assert [fault for check in OF_A_TEXT for fault in check(text)] + wrong_links(path, text) == []


@pytest.mark.parametrize("path", [path for path in MANUALS if path != CROSSWALK], ids=name_of)
def test_a_manual_has_its_five_parts(path: Path) -> None:
    assert wrong_form(path.read_text()) == []


@pytest.mark.parametrize("path", FACTS, ids=name_of)
def test_a_fact_is_shown_or_its_source_is_named(path: Path) -> None:
    assert wrong_facts(path.read_text()) == []


def test_every_manual_can_be_reached() -> None:
    said = CROSSWALK.read_text()
    assert [name_of(path) for path in MANUALS if path != CROSSWALK and f"({path.name}" not in said] == []
    facts = "".join(path.read_text() for path in MANUALS)
    assert [path.name for path in FACTS if f"../facts/{path.name}" not in facts] == []


def test_every_failure_mode_and_hazard_has_its_line() -> None:
    said = CROSSWALK.read_text()
    modes = {int(n) for line in re.findall(r"FM-\d\d(?:, \d\d)*", said) for n in re.findall(r"\d\d", line)}
    assert modes == set(range(1, 24))
    assert set(map(int, re.findall(r"\bH(\d\d)\b", said))) == set(range(1, 36))
    assert set(re.findall(r"\bOM-(\d\d)", said)) == {f"{n:02}" for n in range(1, 14)}
    lines = [row for table in tables(said) for row in table if set(row) & {"test", "shown by"}]
    bare = [row for row in lines if not re.search(r"tests/\w+|not there yet|^-$", list(row.values())[-1])]
    assert bare == []


# -- defects, planted: what each check is worth ----------------------------------------------------------------------

GOOD = """\
# A page

## Contract

1. One thing holds.
2. Another does; see [the map](codemap.md#words).

## Tripwires

| code | condition | first asserted | seen by | what is read | remedy |
| --- | --- | --- | --- | --- | --- |
| GL-NUM-01 | not finite | `genlock/engine/solo.py:check_finite` | all | `latents are not finite` | look |
| GL-COLL-01 | no plan | `genlock/fabric/collectives.py:Mesh._sum` | one | `… of … elements, due is …` | look |
| GL-TRIP-01 | never | `genlock/errors.py:Tripwire` | none | nothing | look |

## Break-it tests

| break it | injected | code | rank, field | within | without the guard |
| --- | --- | --- | --- | --- | --- |
| `GENLOCK_FAULTS="refuse:rank=1,phase=accept,chunk=1"` | a no | GL-MESH-02, exit code 10 | 1, seed | chunk | a hang |
| `GENLOCK_FAULTS="stop:rank=0,phase=load"` | a stop | GL-RANK-02, exit code 12 | 0 | D + 3 s | a hang |
| `tests/test_manuals.py::test_a_sound_page_passes` | nothing | GL-NUM-01 | none | 1 s | nothing |

```sh
GENLOCK_DEADLINE=3 genlock generate --topology tp --mesh 2 --prompt "a boat" --out boat.mp4
```

## Instrumentation

| field | unit | healthy | illness |
| --- | --- | --- | --- |
| `Beacon.op` | collectives | grows | stands still |
| `genlock recorder merge RUN_DIR` | text | no difference | a difference |

## Facts

[The map](codemap.md).
"""
FACT = (
    "| what is so | shown by |\n| --- | --- |\n| water is wet | `tests/test_manuals.py::test_a_sound_page_passes` |\n"
)
HERE = ROOT / "docs" / "page.md"


def every_fault(text: str) -> list[str]:
    return [fault for check in [*OF_A_TEXT, wrong_form] for fault in check(text)] + wrong_links(HERE, text)


def test_a_sound_page_passes() -> None:
    assert every_fault(GOOD) == []
    assert wrong_facts(FACT) == []
    for proof in ("read, not run: x 1.2, `a.h`", "measured: well, `benchmarks/results/end-to-end-cpu.json`"):
        assert wrong_facts(FACT.replace("`tests/test_manuals.py::test_a_sound_page_passes`", proof)) == []


@pytest.mark.parametrize(
    ("sound", "planted", "fault"),
    [
        ("solo.py:check_finite", "solo.py:check_infinite", "there is no check_infinite"),
        ("solo.py:check_finite", "solos.py:check_finite", "there is no check_finite in genlock/engine/solos.py"),
        ("solo.py:check_finite", "solo.py:load_stream", "does not speak of NotFinite"),
        ("`genlock/engine/solo.py:check_finite`", "somewhere", "GL-NUM-01: no place"),
        ("| GL-COLL-01 | no plan", "| GL-CALL-01 | no plan", "does not speak of CallCount"),
        ("errors.py:Tripwire", "errors.py:NotFinite", "is raised by somebody"),
        ("latents are not finite", "latents are not fine", "nobody says"),
        ("`latents are not finite`", "a text", "nothing is read"),
        ("… of … elements, due", "… elements, … due", "nobody says"),
        ("genlock generate", "genlock make", "there is no command make"),
        ("--topology tp", "--topology pp", "pp"),
        ("--mesh 2", "--meshes 2", "No such option"),
        ("recorder merge RUN_DIR", "recorder mend RUN_DIR", "mend"),
        ("GENLOCK_DEADLINE=3", "GENLOCK_DEADLINE=soon", "soon"),
        ("GENLOCK_DEADLINE=3", "GENLOCK_DEADLINES=3", "GENLOCK_DEADLINES"),
        ("2. Another does", "2. `GENLOCK_PATIENCE` does", "no variable GENLOCK_PATIENCE"),
        ("phase=accept", "phase=acceptance", "is not a fault"),
        ("refuse:rank", "reject:rank", "is not a fault"),
        ("phase=accept", "phase=payload", "refuse strikes in accept"),
        ("refuse:rank=1", "refuse:rank=2", "no rank 2"),
        ('`GENLOCK_FAULTS="refuse:rank=1,phase=accept,chunk=1"`', "a bad day", "is no fault, drill or test"),
        ('`GENLOCK_FAULTS="refuse:rank=1,phase=accept,chunk=1"`', "`genlock drill refuse`", "there is no drill refuse"),
        ('`GENLOCK_FAULTS="refuse:rank=1,phase=accept,chunk=1"`', "`genlock drill kill`", "not end with exit code 10"),
        ("GL-MESH-02, exit", "GL-MESH-99, exit", "GL-MESH-99 is no error's"),
        ("GL-MESH-02, exit", "GL-MESH-03, exit", "code is GL-MESH-03, exit code 10, not GL-MESH-02"),
        ("exit code 12", "exit code 11", "not GL-RANK-02, exit code 12"),
        ("| 1, seed |", "| 0, seed |", "is 0, seed, not 1, seed"),
        ("| D + 3 s |", "| D + 5 s |", "within is D + 5 s, not D + 3 s"),
        ("| chunk | a hang", "| | a hang", "within is empty"),
        ("::test_a_sound_page_passes", "::test_an_unsound_page_passes", "there is no test_an_unsound_page_passes"),
        ("tests/test_manuals.py::", "tests/test_manual.py::", "in tests/test_manual.py"),
        ("(codemap.md#words)", "(codemaps.md#words)", "leads nowhere"),
        ("(codemap.md#words)", "(codemap.md#lore)", "leads nowhere"),
        ("`Beacon.op`", "`Beacon.pulse`", "there is no Beacon.pulse"),
        ("`Beacon.op`", "the pulse", "names nothing"),
        ("## Instrumentation", "## Measurements", "its parts are"),
        ("2. Another", "3. Another", "the contract's numbers"),
        ("| field | unit | healthy | illness |", "| field | unit | well | ill |", "no table of field"),
        ("1. One thing holds.\n", "1. One thing holds.\n" + "and so on\n" * LINES_MOST, "lines"),
    ],
)
def test_a_planted_defect_is_found(sound: str, planted: str, fault: str) -> None:
    assert sound in GOOD
    assert fault in "; ".join(every_fault(GOOD.replace(sound, planted)))


@pytest.mark.parametrize(
    "proof",
    [
        "everybody knows",
        "read, not run: the source",
        "read, not run: x 1.2",
        "measured: on a good day",
        "measured: well, `benchmarks/results/lost.json`",
    ],
)
def test_a_fact_without_a_proof_is_found(proof: str) -> None:
    planted = FACT.replace("`tests/test_manuals.py::test_a_sound_page_passes`", proof)
    assert wrong_facts(planted) == ["water is wet: shown by nothing"]
    assert wrong_facts("a text\n") == ["a card without facts"]


def test_every_drill_stands_in_a_table() -> None:
    texts = {path.name: path.read_text() for path in MANUALS}
    assert missing_drills(texts) == []
    without = {name: text.replace("`genlock drill orphan`", "`genlock drill orphans`") for name, text in texts.items()}
    assert missing_drills(without) == ["orphan stands in no table"]


def test_a_code_that_is_missing_unknown_or_twice_there_is_found() -> None:
    line = "| {} | c | `genlock/errors.py:Tripwire` | s | nothing | r |\n"
    head = "| " + " | ".join(TRIPWIRES) + " |\n" + "| --- " * len(TRIPWIRES) + "|\n"
    whole = head + "".join(line.format(code) for code in CLASS_OF)
    assert wrong_codes({"a": whole}) == []
    assert wrong_codes({"a": whole.replace(line.format("GL-NUM-01"), "")}) == ["GL-NUM-01 stands in 0 tables"]
    assert wrong_codes({"a": whole, "b": head + line.format("GL-NUM-01")}) == ["GL-NUM-01 stands in 2 tables"]
    assert wrong_codes({"a": whole + line.format("GL-NUM-02")}) == ["GL-NUM-02 is no error's"]


@pytest.mark.parametrize(
    ("name", "sound", "planted"),
    [
        ("kill", "5 s", "6 s"),
        ("stop", "D + 3 s", "D + 4 s"),
        ("stop", "D + 3 s", "3 s"),
        ("cut-link", "D + 3 s; heals", "9 s"),
    ],
)
def test_a_bound_that_is_not_its_drills_is_found(name: str, sound: str, planted: str) -> None:
    row = {"code": "", "without the guard": ""}
    assert wrong_drill(name, {**row, "within": sound}) == []
    assert wrong_drill(name, {**row, "within": planted}) == [f"{name}: {planted} is no bound of its cases"]


@pytest.mark.parametrize(
    ("page", "promised"),
    [
        ("operator/shutdown.md", f"a killed rank ends the run within {WITHIN[FaultKind.KILL]}"),
        ("operator/shutdown.md", f"a stopped one within {WITHIN[FaultKind.STOP]}"),
        ("operator/shutdown.md", f"all ranks gone within {GONE_BOUND_S:g} s"),
        ("how-to/mesh.md", f"| a rank's process is gone | 11 | at most {WITHIN[FaultKind.KILL]} |"),
        ("how-to/mesh.md", f"| a rank is stopped, or does not get on | 12 | at most {WITHIN[FaultKind.STOP]} |"),
        ("how-to/mesh.md", f"the ranks are gone within {GONE_BOUND_S:g} s"),
    ],
)
def test_a_promised_bound_is_the_drills(page: str, promised: str) -> None:
    assert promised in " ".join((ROOT / "docs" / page).read_text().split())
