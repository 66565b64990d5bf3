"""MONAI Bundles: where they lie, what is in them, and the network they describe.

A bundle is a folder in MONAI's format (``configs/metadata.json``, ``configs/inference.json``, ``models/``,
``docs/``, ``LICENSE``). What medidiff needs beyond that stands under ``"medidiff"`` in the metadata. Weights are
fp16 safetensors, checked against the SHA-256 in the metadata before use; nothing is unpickled.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medidiff.config import is_possible, shortened
from medidiff.errors import CannotWrite, PipelineError, UsageError
from medidiff.scans import limits, records
from medidiff.scans.outputs import atomic_folder

if TYPE_CHECKING:
    from medidiff.diffusion.device import Device
    from medidiff.diffusion.network import Backbone
    from medidiff.engine import Engine

METADATA = Path("configs/metadata.json")
STATE_DICT = Path("models/model.pt")
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, metadata read, weights not yet.

    Attributes:
        path: its folder.
        name: the name in its metadata, if there is one, else the folder's.
        metadata: ``configs/metadata.json``.
    """

    path: Path
    name: str
    metadata: dict[str, Any]

    @property
    def version(self) -> str:
        """The bundle's version."""
        return str(self.metadata["version"])

    @property
    def settings(self) -> dict[str, Any]:
        """Medidiff's own section: tasks, modalities, network, halo, weights, licence, trained_on."""
        settings: dict[str, Any] = self.metadata["medidiff"]
        return settings

    @property
    def spatial_dims(self) -> int:
        """2 for a network of images, 3 for one of volumes."""
        return int(self.settings["network"].get("spatial_dims", 3))

    @property
    def halo(self) -> int:
        """Voxels of context that tiles need.

        Raises:
            PipelineError: the metadata do not say.
        """
        if "halo" not in self.settings:
            raise PipelineError(f"{self.path / METADATA} is not the metadata of a medidiff bundle (halo is missing).")
        return int(self.settings["halo"])

    @property
    def anisotropy(self) -> float | None:
        """Largest ratio of voxel edges among the training scans; ``None`` when not known."""
        limits = self.settings.get("trained_on", {}).get("anisotropy")
        return None if limits is None else float(limits[1])

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.path / str(self.settings["weights"]["file"])

    @property
    def weights_sha256(self) -> str:
        """SHA-256 that the weights file must have."""
        return str(self.settings["weights"]["sha256"])

    @property
    def settings_sha256(self) -> str:
        """SHA-256 of medidiff's own section: halo, ranges and calibration shape a result as the weights do."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def verify(self) -> None:
        """Check the weights file against its hash.

        Raises:
            PipelineError: if it is missing or differs.
        """
        try:
            if not self.weights.is_file():  # a device or a pipe may have no end
                raise FileNotFoundError(self.weights)
            with self.weights.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise PipelineError(f"Pipeline {self.name}: {self.weights} cannot be read; {self._remedy}.") from error
        if found != self.weights_sha256:
            raise PipelineError(
                f"Pipeline {self.name}: {self.weights} is damaged (its SHA-256 differs); {self._remedy}."
            )

    @property
    def _remedy(self) -> str:
        """What to do about damaged weights: those of the package come with it, others are the user's own."""
        came = any(self.path.resolve().parent == folder.resolve() for folder in _shipped())
        return "install medidiff again" if came else "copy the bundle again from where it comes, or make it again"

    def network(self) -> Backbone:
        """Build the network and load its weights, float32 on the CPU.

        Raises:
            PipelineError: if the weights are missing, damaged or do not fit the network.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from medidiff.diffusion.network import build

        self.verify()
        try:
            with torch.device("meta"):  # no memory for sizes that the metadata alone claim
                network = build(**self.settings["network"])
            weights = {key: value.float() for key, value in load_file(self.weights).items()}
            network.load_state_dict(weights, assign=True)
        except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError, IndexError) as error:
            raise PipelineError(f"Pipeline {self.name}: {self.weights} does not fit the network it names.") from error
        network.eval()
        return network

    def engine(self, network: Backbone, device: Device, *, tile: int | None = None, batch: int = 1) -> Engine:
        """A network of this bundle, on its device already, with all that restoring a scan needs.

        Args:
            network: as ``network`` gives it, in the device's precision.
            device: where it runs.
            tile: largest window edge in voxels; ``None`` to choose by the scan's size.
            batch: windows evaluated together.
        """
        from medidiff.diffusion.uncertainty import Calibration
        from medidiff.engine import Engine

        trained_on = self.settings.get("trained_on", {})
        limits = trained_on.get("noise_percent")
        return Engine(
            network,
            device,
            self.halo,
            tile,
            batch,
            noise_range=None if limits is None else (float(limits[0]), float(limits[1])),
            modalities=tuple(self.settings.get("modalities", ())),
            trained_on=trained_on,
            calibration=Calibration.from_settings(self.settings),
        )


def folders() -> Iterator[Path]:
    """Places that hold bundles, first match wins: ``MEDIDIFF_BUNDLES``, the installed package, the source checkout."""
    for entry in filter(None, os.environ.get("MEDIDIFF_BUNDLES", "").split(os.pathsep)):
        yield Path(entry)
    yield from _shipped()


def _shipped() -> tuple[Path, Path]:
    """The bundles of the installed package, and of the source checkout.

    An editable install does not see what the wheel force-includes.
    """
    return _HERE / "_bundles", _HERE.parent / "pipelines"


def read(path: Path) -> Bundle:
    """Read a bundle's metadata.

    Raises:
        PipelineError: if the folder is no bundle that medidiff can use.
    """
    try:
        metadata = limits.read_json(path / METADATA)
    except OSError as error:
        raise PipelineError(
            f"{path} holds no {METADATA}; name a pipeline that `medidiff list` shows, or a bundle's folder."
        ) from error
    except ValueError as error:
        raise PipelineError(f"{path / METADATA} is not the metadata of a medidiff bundle.") from error
    if why := records.why_no_bundle(metadata):
        raise PipelineError(f"{path / METADATA} is not the metadata of a medidiff bundle ({why}).")
    return Bundle(path, str(metadata.get("name") or path.resolve().name), metadata)


def load_network(bundle: str | Path) -> Backbone:
    """The network of the bundle in a folder, for configurations that name it as a component."""
    return read(Path(bundle)).network()


def locate(name_or_path: str | Path) -> Bundle:
    """Find a bundle by its folder or by its name.

    Raises:
        PipelineError: if there is none.
    """
    path = Path(name_or_path)
    if not is_possible(path):
        raise PipelineError(f"There is no pipeline {shortened(str(path))}; `medidiff list` shows those that there are.")
    if path.is_dir() and (path / METADATA).is_file():
        return read(path)
    name = str(name_or_path)
    if path.name == name and name not in {"", ".", ".."}:
        for folder in folders():
            if (folder / name / METADATA).is_file():
                return read(folder / name)
    known = every()
    for bundle in known:  # in a folder of another name
        if bundle.name == name:
            return bundle
    names = ", ".join(bundle.name for bundle in known) or "none is installed"
    raise PipelineError(f"There is no pipeline {name!r}; known are: {names}.")


def every() -> list[Bundle]:
    """All bundles that ``locate`` finds by name, in the order of their names."""
    found: dict[str, Bundle] = {}
    for folder in folders():
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            if (path / METADATA).is_file():
                bundle = read(path)
                found.setdefault(bundle.name, bundle)
    return [found[name] for name in sorted(found)]


def root(given: str | Path, name: str) -> str:
    """The folder of a bundle, for a configuration that is read by others.

    ``python -m monai.bundle run`` and MONAI Label say where a bundle lies (``bundle_root``). MONAI Deploy does not, but
    puts the folder on ``sys.path``, for the bundle's scripts.

    Args:
        given: what the configuration says.
        name: of the bundle; decides between several on ``sys.path``.
    """
    if (Path(given) / METADATA).is_file():
        return str(given)
    found: dict[str, str] = {}
    for entry in sys.path:
        with suppress(PipelineError):
            if (Path(entry) / METADATA).is_file():
                found.setdefault(read(Path(entry)).name, entry)
    return found.get(name, next(iter(found.values()), str(given)))


def export(name_or_path: str | Path, target: Path) -> Bundle:
    """Copy a bundle into a folder that works by itself, byte for byte, and check it.

    ``models/model.pt`` is added: the same weights as MONAI Label and MONAI Deploy want them, tensors and nothing else
    (``torch.load`` with ``weights_only``). medidiff itself reads the safetensors only.

    Args:
        name_or_path: a name that ``medidiff list`` shows, or a bundle's folder.
        target: the new folder; an older bundle of the same name there is replaced.

    Raises:
        PipelineError: there is no such bundle, or its weights are damaged.
        UsageError: the target is the bundle itself, or lies in it.
        CannotWrite: the target holds something else, or cannot be written.
    """
    import torch
    from safetensors.torch import load_file

    bundle = locate(name_or_path)
    bundle.verify()
    if target.resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(f"{target} lies in the bundle itself; choose another folder.")
    refuse_to_replace(target, bundle)
    with atomic_folder(target) as folder:
        for file in sorted(path for path in bundle.path.rglob("*") if path.is_file() and not _is_litter(path, bundle)):
            copy = folder / file.relative_to(bundle.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            if not filecmp.cmp(file, copy, shallow=False):
                raise CannotWrite(f"{target} could not be written whole; try again.")
        named = {"name": bundle.name, **bundle.metadata}
        (folder / METADATA).write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")
        torch.save(load_file(bundle.weights), folder / STATE_DICT)
    made = read(target)
    made.verify()
    return made


def _is_litter(path: Path, bundle: Bundle) -> bool:
    parts = path.relative_to(bundle.path).parts
    return any(part.startswith(".") or part == "__pycache__" for part in parts)


def _is_occupied(target: Path) -> bool:
    return target.is_file() or (target.is_dir() and any(target.iterdir()))


def refuse_foreign(target: Path) -> None:
    """Stop before a bundle would be written over something that is none, be it of whatever pipeline.

    Raises:
        CannotWrite: there is something else.
    """
    if _is_occupied(target) and not (target / METADATA).is_file():
        raise CannotWrite(f"{target} exists and is no bundle; choose an empty or a new folder.")


def refuse_to_replace(target: Path, bundle: Bundle, *, tuned: bool = False) -> None:
    """Stop before anything but an older export of a bundle would be replaced.

    Args:
        target: the folder that is to be written.
        bundle: the one that is exported or fine-tuned.
        tuned: fine-tuned weights may be replaced too, and a copy of the bundle in which nothing better was found.

    Raises:
        CannotWrite: there is something else.
    """
    if target.is_dir() and (target / METADATA).is_file():
        with suppress(PipelineError):
            there = read(target)
            of_it = bool(there.settings.get("finetuned")) or there.weights_sha256 == bundle.weights_sha256
            if there.name == bundle.name or (tuned and of_it):
                return
    if _is_occupied(target):
        raise CannotWrite(f"{target} exists and is no bundle of {bundle.name}; choose an empty or a new folder.")


def __getattr__(name: str) -> Any:
    # loaded on first use: reading bundle metadata must not cost an import of torch
    if name == "RestorationInferer":
        from medidiff.inferer import RestorationInferer

        return RestorationInferer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
