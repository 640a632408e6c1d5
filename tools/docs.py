"""Writes what of the docs follows from the code: pages of docs/reference, the list of files, help texts under test.

    python tools/docs.py

A test fails while a page differs from what this writes. Each says so where it begins.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import click

from genlock.cli.main import HELP_WIDTH, cli
from genlock.errors import EXIT_CODES, GenlockError
from genlock.observe.metrics import BUCKETS_S, METRICS
from genlock.settings import READ_ELSEWHERE, Option, options

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "genlock"
HELP = Path("tests/cli/help")
CODEMAP = Path("docs/codemap.md")
FILES_BEGIN = "<!-- files: written by `make docs` from the first lines of the files -->"
FILES_END = "<!-- end of files -->"
MADE = "Written by `make docs` from the code; edit {source}, not this page.\n"


def help_texts() -> dict[str, str]:
    """The help of `genlock` (under "") and of each command, at a fixed width."""
    width = HELP_WIDTH - 2  # the margin that click leaves on a terminal
    told = {"help_option_names": cli.context_settings["help_option_names"]}
    top = click.Context(cli, info_name="genlock", terminal_width=width, **told)
    texts = {"": cli.get_help(top)}
    for name in cli.list_commands(top):
        command = cli.get_command(top, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=top, terminal_width=width)
        texts[name] = command.get_help(inner)
    return {name: text.rstrip() + "\n" for name, text in texts.items()}


def cli_page() -> str:
    parts = ["# The command line\n", MADE.format(source="`src/genlock/cli/`")]
    for name, text in help_texts().items():
        parts += [f"## {' '.join(['genlock', name]).strip()}\n", f"```text\n{text}```\n"]
    return "\n".join(parts)


def settings_page() -> str:
    opening = (
        "Each setting is an environment variable that the `genlock` command reads. A flag goes before it, and an\n"
        "unknown `GENLOCK_` variable is refused. In Python nothing is read behind your back: hand `genlock.open` a\n"
        "`genlock.settings.Settings`, which `genlock.settings.from_environment()` makes of the variables.\n\n"
        "*Equal on* says who must hold the same value: a difference among all ranks ends the start; what rank 0\n"
        "alone reads reaches the others in the envelope.\n"
    )
    elsewhere = "".join(f"\n`{name}` is no setting of a run: {what}.\n" for name, what in READ_ELSEWHERE.items())
    table = ["| variable | default | values | equal on | meaning |", "| --- | --- | --- | --- | --- |"]
    table += [f"| `{o.variable}` | `{shown(o.default)}` | {values(o)} | {o.parity} | {o.doc} |" for o in options()]
    return (
        "\n".join(["# Settings\n", MADE.format(source="`src/genlock/settings.py`"), opening, *table]) + "\n" + elsewhere
    )


def shown(default: str | int | bool) -> str:
    return str(int(default)) if isinstance(default, bool) else str(default)


def values(option: Option) -> str:
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    if option.kind is bool:
        return "`1`, `0`"
    return f"a whole number of {option.unit}, {option.minimum} or more" if option.kind is int else f"a {option.unit}"


def every_error(base: type[GenlockError] = GenlockError) -> Iterator[type[GenlockError]]:
    yield base
    for sub in base.__subclasses__():
        yield from every_error(sub)


def first_sentence(error: type[GenlockError]) -> str:
    return " ".join((error.__doc__ or "").split("\n\n")[0].split())


def errors_page() -> str:
    parts = [
        "# Errors and exit codes\n",
        MADE.format(source="`src/genlock/errors.py`"),
        "An error is one line: `CODE: where: what was wrong; what to do`. With `--debug` the traceback comes before\n"
        "it. In Python the classes below are raised; all are `genlock.GenlockError`, with `code`, `what`, `where`,\n"
        "`remedy`, `exit_code`, and `rank`, `call_id`, `chunk_index` and `field` where they are known.\n",
        "## Exit codes\n",
        "| exit code | meaning |\n| --- | --- |",
        *[f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()],
        "",
        "## Error codes\n",
        "| code | class | exit code | what it means | usual remedy |\n| --- | --- | --- | --- | --- |",
    ]
    parts += [
        f"| {e.code} | `{e.__name__}` | {e.exit_code} | {first_sentence(e)} | {e.default_remedy} |"
        for e in sorted(every_error(), key=lambda e: (e.exit_code, e.code))
    ]
    return "\n".join(parts) + "\n"


def metrics_page() -> str:
    opening = (
        "`genlock generate --metrics-port PORT` answers at `http://127.0.0.1:PORT/metrics` while the stream runs;\n"
        "of a mesh rank 0 does. Of a histogram the series are `_bucket`, `_sum` and `_count`.\n"
        "How to look at them: [watch a run](../how-to/watch-a-run.md).\n"
    )
    table = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    table += [
        f"| `{m.exposed}` | {m.kind} | {', '.join(f'`{label}`' for label in m.labels)} | {m.doc} |" for m in METRICS
    ]
    buckets = ", ".join(f"{bucket:g}" for bucket in BUCKETS_S)
    parts = ["# Metrics\n", MADE.format(source="`src/genlock/observe/metrics.py`"), opening, *table]
    return "\n".join(parts) + f"\n\nBuckets of the histograms, seconds: {buckets}.\n"


def file_table() -> str:
    """One line per source file, by room: the first paragraph of its docstring."""
    lines: list[str] = []
    room = None
    for path in sorted(SRC.rglob("*.py"), key=lambda path: (len(path.relative_to(SRC).parts), path)):
        text = path.read_text()
        name = path.relative_to(SRC.parent)
        if not text.strip():
            continue
        if name.parent != room:
            room = name.parent
            lines += [f"\n### {room.as_posix()}/\n", "| file | what it gives |", "| --- | --- |"]
        about = " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())
        lines.append(f"| `{name.as_posix()}` | {about.replace('|', '/')} |")
    return "\n".join(lines) + "\n\n"


def codemap_page() -> str:
    """The map as it stands, with its list of files made anew."""
    page = (ROOT / CODEMAP).read_text()
    head, rest = page.split(FILES_BEGIN, maxsplit=1)
    return head + FILES_BEGIN + "\n" + file_table() + FILES_END + rest.split(FILES_END, maxsplit=1)[1]


def pages() -> dict[Path, str]:
    """Path under the repository's root -> text, for everything that is generated."""
    made = {
        Path("docs/reference/cli.md"): cli_page(),
        Path("docs/reference/settings.md"): settings_page(),
        Path("docs/reference/errors.md"): errors_page(),
        Path("docs/reference/metrics.md"): metrics_page(),
        CODEMAP: codemap_page(),
    }
    return made | {HELP / f"{name or 'genlock'}.txt": text for name, text in help_texts().items()}


def main() -> None:
    wanted = pages()
    for path in (ROOT / HELP).glob("*.txt"):
        if path.relative_to(ROOT) not in wanted:
            path.unlink()
    for path, text in wanted.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
        print(path)


if __name__ == "__main__":
    main()
