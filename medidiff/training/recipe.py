"""The whole recipe of a training run, read from one TOML file; a misspelt key or an impossible value is an error."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Data:
    """What a batch looks like; ``patches`` = ((until which fraction of the run, edge, images a batch), ...).

    Strengths are normalised; shares are of batches. ``rician`` and ``gaussian`` leave the rest to noncentral chi;
    ``inherent`` is the share in which the assumed sigma includes the noise that the reference scan already had, as an
    estimate does; ``sigma_jitter`` is the log-error of the assumed sigma. ``superres``, ``inpaint`` and ``combined``
    leave the rest of the batches to denoising; ``through_plane`` is the share of super-resolution batches with one
    thick axis, the others have two or three; ``factor`` and ``in_plane_factor`` are the ranges; ``hole_radius`` is in
    voxels. ``phantoms`` synthetic bodies are drawn from as if they were volumes; a network for CT alone learns noise
    with the spectra of CT, and its ``sigma`` is in parts of the usual bright level of CT. ``echo`` is how often a batch
    is learned from in the mean: on a CPU its base takes longer to make than a step of the network. ``source`` names the
    pack, or the manifest to make one of, from the recipe's folder.
    """

    source: str = ""
    patches: tuple[tuple[float, int, int], ...] = ((0.6, 32, 8), (1.0, 48, 3))
    thin: float = 0.1
    sigma: tuple[float, float] = (0.005, 0.20)
    rician: float = 0.7
    gaussian: float = 0.2
    correlated: float = 0.15
    varying: float = 0.4
    sigma_jitter: float = 0.08
    inherent: float = 0.5
    phantoms: int = 0
    echo: float = 1.0
    superres: float = 0.0
    inpaint: float = 0.0
    combined: float = 0.0
    through_plane: float = 0.7
    factor: tuple[float, float] = (1.6, 8.0)
    in_plane_factor: tuple[float, float] = (1.5, 3.0)
    hole_radius: tuple[float, float] = (3.0, 13.0)


@dataclass(frozen=True)
class Optimiser:
    """AdamW with warm-up and cosine decay; ``null`` = ((until which fraction, share of null tokens), ...)."""

    learning_rate: float = 1.5e-3
    final_learning_rate: float = 1e-6
    warmup: int = 300
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    null: tuple[tuple[float, float], ...] = ((0.6, 1.0), (1.0, 0.7))
    variance_weight: float = 0.05


@dataclass(frozen=True)
class Recipe:
    """One training run of ``iterations``, or of ``seconds`` of training time over all resumed parts when given."""

    name: str
    network: dict[str, Any] = field(default_factory=dict)
    iterations: int = 30_000
    seconds: float = 0.0
    seed: int = 0
    modalities: tuple[str, ...] = ("MR",)
    data: Data = Data()
    optimiser: Optimiser = Optimiser()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as read from TOML; of the data's source no more than its name, for others will read it."""
        values = asdict(self)
        values["data"]["source"] = Path(self.data.source).name
        return values

    def differs(self, told: dict[str, Any]) -> str:
        """The first setting that differs from ``told``, another recipe's ``as_dict``, in what makes it another run.

        Name, length and source may differ, and what only one of the two knows, for they are of two versions then; of
        networks that is a difference. Empty when there is none.
        """
        mine, other = (json.loads(json.dumps(values)) for values in (self.as_dict(), told))
        for name in sorted((mine.keys() & other.keys()) - {"name", "iterations", "seconds"}):
            if name not in ("data", "optimiser"):
                if mine[name] != other[name]:
                    return str(name)
                continue
            for key in sorted((mine[name].keys() & other[name].keys()) - {"source"}):
                if mine[name][key] != other[name][key]:
                    return f"{name}.{key}"
        return ""


_RANGE = tuple[float, float]
_KINDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number of 0 or more",
    _RANGE: "two numbers, the smaller first",
    tuple[str, ...]: "a list of texts",
    tuple[_RANGE, ...]: "a list of pairs of numbers",
    tuple[tuple[float, int, int], ...]: "a list of lists of a fraction, an edge and a number of images",
    dict[str, Any]: "a section",
    Data: "a section",
    Optimiser: "a section",
}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _section(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{where}unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    hints = get_type_hints(kind)
    settings = {key: _tuples(value) for key, value in values.items()}
    for key, value in settings.items():
        if not _fits(value, hints[key]) or (hints[key] == _RANGE and value[0] > value[1]):
            raise ValueError(f"{where}{key} is {_KINDS[hints[key]]}, not {values[key]!r}")
    return kind(**settings)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of its setting; no number of a recipe is negative, no list empty."""
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if not isinstance(value, tuple) or not value:
            return False
        if inner[-1] is Ellipsis:
            return all(_fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if hint in (int, float):
        number = isinstance(value, int | float if hint is float else int) and not isinstance(value, bool)
        return number and 0 <= value < math.inf
    return isinstance(value, get_origin(hint) or hint)


def data_of(values: dict[str, Any]) -> Data:
    """The data section of a recipe that was written as plain values, of this version or of an older one."""
    known = {f.name for f in fields(Data)}
    return Data(**{key: _tuples(value) for key, value in values.items() if key in known})


def read(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ValueError: on an unknown key, a value that its setting cannot have, or no TOML; it does not name the file.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    for name, kind in (("data", Data), ("optimiser", Optimiser)):
        if isinstance(values.setdefault(name, {}), dict):
            values[name] = _section(kind, values[name], f"[{name}]: ")
    recipe: Recipe = _section(Recipe, values, "")
    shares = recipe.data.superres + recipe.data.inpaint + recipe.data.combined
    if shares > 1 + 1e-9:
        raise ValueError(f"[data]: superres, inpaint and combined are shares of one whole, not {shares:g} together")
    return recipe


def staged(stages: tuple[tuple[float, ...], ...], fraction: float) -> tuple[float, ...]:
    """The values (without the fraction) of the first stage that ends after ``fraction`` of the run."""
    for until, *values in stages:
        if fraction < until:
            return tuple(values)
    return tuple(stages[-1][1:])
