"""Writes the reference pages out of the code: exit codes, commands, Python names, and the model cards.

python docs/generate.py           write the pages
python docs/generate.py --check   exit with 1 when a page is not what the code says
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

REFERENCE = Path(__file__).parent / "reference"
PIPELINES = Path(__file__).parents[1] / "pipelines"
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")
ENTRY = re.compile(r"^(\*{0,2}[\w.]+): (.*)$")


def exit_codes() -> str:
    """The table of ``medidiff.errors``."""
    from medidiff import errors

    raised: dict[int, list[str]] = {}
    for cls in errors.MedidiffError.__subclasses__():
        raised.setdefault(int(cls.exit_code), []).append(f"`{cls.__name__}`")
    rows = [
        f"| {int(code)} | {meaning} | {', '.join(raised.get(int(code), []))} |"
        for code, meaning in errors.EXIT_MEANINGS.items()
    ]
    return "\n".join(
        [
            "# Exit codes",
            "",
            "Scripts may rely on these. In Python the same failures are exceptions of `medidiff.errors`, all of them",
            "`MedidiffError`.",
            "",
            "| code | meaning | exception |",
            "| --- | --- | --- |",
            *rows,
            "",
            "A failure of one scan never ends a folder: its reason is one sentence in `run.json`, and the exit code is",
            "4, or 5 when no scan succeeded.",
            "",
        ]
    )


def cli() -> str:
    """Every command with its options, from click."""
    from medidiff.cli.app import app

    context = click.Context(app, info_name="medidiff")
    lines = ["# Commands", "", *paragraphs(app.help), ""]
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        if command is not None:
            lines += [f"## medidiff {name}", "", *command_page(command, name, context)]
    lines += ["Exit codes are on [their own page](exit-codes.md).", ""]
    return "\n".join(lines)


def command_page(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    """Usage, help and options of one command."""
    context = click.Context(command, info_name=name, parent=parent)
    yield from ("```text", " ".join([f"medidiff {name}", *command.collect_usage_pieces(context)]), "```", "")
    yield from paragraphs(command.help)
    records = [param.get_help_record(context) for param in command.get_params(context)]
    rows = [(flags, text) for flags, text in filter(None, records)]
    if rows:
        yield from ("", "| option | meaning |", "| --- | --- |")
        yield from (f"| `{cell(flags)}` | {cell(text)} |" for flags, text in rows)
    yield ""


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def paragraphs(text: str | None) -> list[str]:
    """A docstring's text as Markdown."""
    return inspect.cleandoc(text or "").replace("``", "`").splitlines()


def python_api() -> str:
    """The public names, from their docstrings."""
    from medidiff import config, errors, pipelines, restore

    names: list[tuple[str, Any]] = [
        ("medidiff.load", pipelines.load),
        ("medidiff.denoise", pipelines.denoise),
        ("medidiff.superresolve", pipelines.superresolve),
        ("medidiff.inpaint", pipelines.inpaint),
        ("medidiff.Restoration", restore.Restoration),
        ("medidiff.pipelines.Restorer", pipelines.Restorer),
        ("medidiff.pipelines.Pipeline", pipelines.Pipeline),
        ("medidiff.pipelines.DenoisePipeline", pipelines.DenoisePipeline),
        ("medidiff.pipelines.SuperResolvePipeline", pipelines.SuperResolvePipeline),
        ("medidiff.pipelines.InpaintPipeline", pipelines.InpaintPipeline),
        ("medidiff.pipelines.AutoPipeline", pipelines.AutoPipeline),
        ("medidiff.pipelines.choose", pipelines.choose),
        ("medidiff.pipelines.available", pipelines.available),
        ("medidiff.config.RestoreOptions", config.RestoreOptions),
        ("medidiff.config.ComputeOptions", config.ComputeOptions),
    ]
    lines = ["# Python names", "", "`import medidiff` imports no torch; the names are loaded on first use.", ""]
    listed = {thing for _, thing in names if inspect.isclass(thing)}
    for name, thing in names:
        lines += [f"## {name}", "", *entry(name, thing, listed)]
    lines += ["## medidiff.errors", "", "```text", inspect.cleandoc(errors.__doc__ or ""), "```", ""]
    return "\n".join(lines)


def entry(name: str, thing: Any, listed: set[type]) -> Iterator[str]:
    """Signature, docstring and public methods of one name, without those that a base on the page describes."""
    if not hasattr(thing, "model_fields"):
        yield from signature(name, thing)
    yield from docstring(thing)
    yield ""
    if not inspect.isclass(thing):
        return
    if hasattr(thing, "model_fields"):
        yield from ("| field | default |", "| --- | --- |")
        yield from (f"| `{field}` | `{info.get_default()!r}` |" for field, info in thing.model_fields.items())
        yield ""
        return
    for method in public_methods(thing, listed - {thing}):
        title = name if method.__name__ == "__call__" else f"{name}.{method.__name__}"
        yield from signature(title, method)
        yield from docstring(method)
        yield ""


def public_methods(cls: type, described: set[type]) -> list[Callable[..., Any]]:
    """Methods that the class or its bases in medidiff define, without private ones and those described elsewhere."""
    found: dict[str, Callable[..., Any]] = {}
    for base in cls.__mro__:
        if not base.__module__.startswith("medidiff") or base in described:
            continue
        for name, member in vars(base).items():
            if inspect.isfunction(member) and (not name.startswith("_") or name == "__call__") and member.__doc__:
                found.setdefault(name, member)
    return list(found.values())


def signature(name: str, thing: Callable[..., Any]) -> Iterator[str]:
    """The call as a code block (not one that the documentation's tests run), one argument a line."""
    call = inspect.signature(thing)
    lines: list[str] = []
    for parameter in call.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not any(line.startswith("    *") for line in lines):
            lines.append("    *,")
        if parameter.name != "self":
            lines.append(f"    {argument(parameter)},")
    given = call.return_annotation
    returns = "" if given is call.empty or inspect.isclass(thing) else f" -> {annotation(given)}"
    arguments = "\n".join(["(", *lines, ")"]) if lines else "()"
    yield from ("```text", f"{name}{arguments}{returns}", "```", "")


def argument(parameter: inspect.Parameter) -> str:
    """One argument as it is written in a call's definition."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = stars + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {annotation(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        is_settings = hasattr(type(parameter.default), "model_fields")
        text += f" = {type(parameter.default).__name__ + '()' if is_settings else repr(parameter.default)}"
    return text


def annotation(given: Any) -> str:
    """An annotation as it is written in the code."""
    return given if isinstance(given, str) else getattr(given, "__name__", str(given))


def docstring(thing: Any) -> Iterator[str]:
    """A Google-style docstring as Markdown: sections become lists."""
    in_section = False
    for line in paragraphs(thing.__doc__):
        if SECTION.match(line.strip()):
            in_section = True
            yield f"**{line.strip()[:-1]}**"
            yield ""
        elif in_section and line.startswith("    ") and not line.startswith("     "):
            found = ENTRY.match(line.strip())
            yield f"- `{found[1]}`: {found[2]}" if found else f"- {line.strip()}"
        elif in_section and line.strip():
            yield f"  {line.strip()}"
        else:
            in_section = in_section and not line.strip()
            yield line


def model_card(name: str) -> str:
    """The card that a pipeline carries."""
    return (PIPELINES / name / "docs/README.md").read_text(encoding="utf-8")


PAGES: dict[str, Callable[[], str]] = {
    "exit-codes.md": exit_codes,
    "cli.md": cli,
    "python-api.md": python_api,
    **{f"pipeline-{name}.md": partial(model_card, name) for name in ("mr", "ct", "image2d")},
}


def main() -> int:
    stale = []
    for name, render in PAGES.items():
        path, text = REFERENCE / name, render()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"docs/reference is not what the code says: {', '.join(stale)}; run python docs/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
