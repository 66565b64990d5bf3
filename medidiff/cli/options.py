"""Kinds of arguments that click does not know."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import rich_click as click

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


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
        if not 0 < percent <= 100:
            self.fail(f"{value!r} is not above 0 and at most 100 percent.", param, ctx)
        return percent


class DeviceParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A device to compute on."""

    name = "device"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What the help page shows."""
        return "auto|cpu|cuda[:N]|mps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the spelling; whether the machine has the device is found out later."""
        if not DEVICE.fullmatch(str(value)):
            self.fail(f"{value!r} is not a device; use auto, cpu, cuda, cuda:N or mps.", param, ctx)
        return str(value)


class PathParam(click.Path):
    """A path; an empty one, as an unset shell variable gives, is an error and not the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty path."""
        if str(value) == "":
            self.fail("the path is empty.", param, ctx)
        return super().convert(value, param, ctx)


def show_json(tree: Any) -> None:
    """Print JSON on stdout."""
    click.echo(json.dumps(tree, indent=2, ensure_ascii=False))


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
