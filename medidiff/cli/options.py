"""Kinds of arguments that click does not know."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import rich_click as click

# C0, C1, line separators, and what turns the direction of writing around
CONTROLS = frozenset((*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
DEVICES = re.compile(r"cuda:\d+(,cuda:\d+)+")


class NoiseParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """``auto``, or the noise in percent."""

    name = "noise"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What the help page shows."""
        return "auto|PERCENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Literal["auto"] | float:
        """Read ``auto``, ``9`` or ``9%``."""
        if value == "auto":
            return "auto"
        try:
            percent = float(str(value).removesuffix("%"))
        except ValueError:
            self.fail(f"{value!r} is neither auto nor a number of percent.", param, ctx)
        if not 0 <= percent <= 100:
            self.fail(f"{value!r} is not between 0 and 100 percent.", param, ctx)
        return percent


class AxesParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """One figure for all axes of the array, or three, one for each.

    Args:
        unit: the letters of a figure on the help page.
        least: the smallest figure.
        most: the largest figure.
        open_end: whether ``least`` itself is refused.
    """

    name = "axes"

    def __init__(self, unit: str, least: float, most: float, *, open_end: bool = False) -> None:
        self.unit, self.least, self.most, self.open_end = unit, least, most, open_end

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What the help page shows."""
        return f"{self.unit}[,{self.unit},{self.unit}]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """Read ``2`` or ``1,1,4``."""
        if isinstance(value, tuple):
            return value
        try:
            figures = [float(part) for part in str(value).split(",")]
        except ValueError:
            figures = []
        if len(figures) not in (1, 3):
            self.fail(f"{value!r} is neither one number nor three with commas between them.", param, ctx)
        for figure in figures:
            if not self.least <= figure <= self.most or (self.open_end and figure == self.least):
                limits = f"above {self.least:g}" if self.open_end else f"between {self.least:g} and {self.most:g}"
                self.fail(f"{value!r} is not {limits}.", param, ctx)
        i, j, k = figures if len(figures) == 3 else figures * 3
        return i, j, k


class DeviceParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A device to compute on.

    Args:
        several: whether several GPUs may be named, for as many workers.
    """

    name = "device"

    def __init__(self, *, several: bool = False) -> None:
        self.several = several

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What the help page shows."""
        return "auto|cpu|cuda[:N][,cuda:M]|mps" if self.several else "auto|cpu|cuda[:N]|mps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the spelling; whether the machine has the device is found out later."""
        if not DEVICE.fullmatch(str(value)) and not (self.several and DEVICES.fullmatch(str(value))):
            more = " or, for several GPUs, cuda:N,cuda:M" if self.several else ""
            self.fail(f"{value!r} is not a device; use auto, cpu, cuda, cuda:N or mps{more}.", param, ctx)
        return str(value)


class PathParam(click.Path):
    """A path; an empty one, as an unset shell variable gives, is an error and not the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty path."""
        if str(value) == "":
            self.fail("the path is empty.", param, ctx)
        from medidiff.config import is_possible, shortened

        if not is_possible(Path(value)):
            self.fail(f"{shortened(str(value))} cannot be the name of a file.", param, ctx)
        return super().convert(value, param, ctx)


def show_json(tree: Any) -> None:
    """Print JSON on stdout."""
    click.echo(json.dumps(tree, indent=2, ensure_ascii=False))


def printable(text: str) -> str:
    """Text of one line without the characters that control a terminal: file names and headers may hold them."""
    return "".join("\ufffd" if ord(each) in CONTROLS else each for each in text)


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def patterns(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Globs, with ``@FILE`` replaced by the lines of a text file; empty lines and those behind a # are left out."""
    found: list[str] = []
    for each in value:
        if not each.startswith("@"):
            found.append(each)
            continue
        try:
            lines = Path(each[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise click.BadParameter(f"{each[1:]} cannot be read ({reason}).", ctx, param) from error
        found += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return tuple(found)
