"""What the commands that train have in common: their progress, and their failures as sentences."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from medidiff.cli.options import DeviceParam
from medidiff.errors import CannotWrite, UsageError

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from medidiff.cli.progress import Mode


def computing(function: Callable[..., int]) -> Callable[..., int]:
    """The flags that say where to train and what to show of it."""
    decorated: Any = function
    for option in (
        click.option(
            "--progress",
            type=click.Choice(["auto", "plain", "none"]),
            default="auto",
            show_default=True,
            help="A bar on a terminal, lines of text, or nothing.",
        ),
        click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads; all cores by default."),
        click.option("--device", default="auto", show_default=True, type=DeviceParam(), help="Where to compute."),
    ):
        decorated = option(decorated)
    result: Callable[..., int] = decorated
    return result


class Meter:
    """Says how far training is: a bar on a terminal, lines of text elsewhere.

    Args:
        bar: the bar, or ``None``.
        quiet: whether lines are kept back too.
    """

    def __init__(self, bar: Progress | None, quiet: bool = False) -> None:
        self._bar, self._quiet = bar, quiet
        self._task = None if bar is None else bar.add_task("starting", total=1.0)

    def say(self, text: str) -> None:
        """One line, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self._quiet:
            with suppress(OSError):  # nobody listens any more; training goes on
                print(text, file=sys.stderr, flush=True)

    def grow(self, fraction: float, text: str) -> None:
        """Move the bar; nothing where there is none."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=min(fraction, 1.0), description=text)


@contextmanager
def meter(mode: Mode) -> Iterator[Meter]:
    """The meter that suits the terminal.

    Args:
        mode: ``auto`` draws a bar on a terminal; ``plain`` never does; ``none`` says nothing.
    """
    from rich.console import Console

    from medidiff.cli import progress

    console = Console(stderr=True)
    if mode != "auto" or not console.is_terminal:
        yield Meter(None, mode == "none")
        return
    with progress.bar(console) as bar:
        yield Meter(bar)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Failures to write into a folder as a sentence.

    Raises:
        CannotWrite: the folder, or a file in it, cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error


def device(name: str, threads: int | None) -> torch.device:
    """Where to train.

    Raises:
        UsageError: the device does not exist on this machine.
    """
    from medidiff.config import ComputeOptions
    from medidiff.diffusion import device as devices

    return devices.resolve(ComputeOptions(device=name, threads=threads)).device


def weights(name: Path | None) -> Path | None:
    """A bundle's folder, also by the name of a pipeline, or a file of weights.

    Raises:
        PipelineError: there is no such pipeline, or it is damaged.
        UsageError: the file is no safetensors file.
    """
    from medidiff import bundles

    if name is None:
        return None
    if name.is_file():
        if name.suffix != ".safetensors":
            raise UsageError(f"--start {name} is no safetensors file; give a bundle's folder or such a file.")
        return name
    bundle = bundles.locate(name)
    bundle.verify()
    return bundle.path
