"""Where damaged files enter medidiff, and what must hold afterwards: its own errors only, and nothing half written."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import click
import nibabel as nib
import numpy as np
import pydicom

from benchmarks import fuzz_mutate, fuzz_seeds
from benchmarks.fuzz_seeds import Files
from medidiff import bundles, pipelines
from medidiff.config import RestoreOptions, RunConfig
from medidiff.errors import MedidiffError, OutOfMemory
from medidiff.runs import estimate, failures, garbage, sidecar
from medidiff.scans import outputs
from medidiff.scans.volume import Volume

NAME = "fuzz"  # of the bundle
SHARES = {"NIfTI": 0.25, "DICOM": 0.25, "mask": 0.15, "settings": 0.10, "record": 0.17, "bundle": 0.08}
DEEP = 40  # one run of so many goes through a real network rather than through the stand-in


class Wrong(Exception):
    """Something that must never happen, though no exception told of it."""


class StandIn:
    """Stands in for a pipeline: halves every value, on a grid twice as fine for superres, and fills holes with 7."""

    modalities: tuple[str, ...] = ()

    def __init__(self, bundle: bundles.Bundle, task: str) -> None:
        self.name, self.version, self.path = bundle.name, bundle.version, bundle.path
        self.weights_sha256, self.task = bundle.weights_sha256, task

    def choose(self, volume: Volume) -> StandIn:
        """This one."""
        return self

    def on_disk(self, shape: tuple[int, ...], options: RestoreOptions) -> float:
        """Nothing."""
        return 0.0

    def restore(self, volume: Volume, options: RestoreOptions, *, hole: Any = None, progress: Any = None) -> Any:
        """Half of the scan."""
        progress(1, 1)
        mean, affine = 0.5 * volume.array, volume.affine
        if self.task == "superres":
            factors = [1 if n == 1 else 2 for n in mean.shape]
            for axis, factor in enumerate(factors):
                mean = np.repeat(mean, factor, axis)
            finer = np.diag([*(1 / factor for factor in factors), 1.0])
            finer[:3, 3] = [(1 / factor - 1) / 2 for factor in factors]
            affine = affine @ finer
        elif hole is not None:
            mean = np.where(hole, np.float32(7), volume.array)
        mean = mean.astype(np.float32)
        return SimpleNamespace(
            mean=mean, affine=affine, std=np.full_like(mean, 0.25), samples=(), sample=None,
            supplied=np.full_like(mean, 0.1), checks={}, verdicts=(), volume=volume,
            record={"noise_percent": 1.0, "noise_law": "rician", "seed": 0, "interval": {}},
        )  # fmt: skip


@dataclass
class Place:
    """The folders of one input.

    Attributes:
        root: the folder of all of it; nothing but ``given`` and ``out`` may appear in it.
        rng: chooses between the commands.
        deep: whether a real network restores.
    """

    root: Path
    rng: Random
    deep: bool = False
    unexpected: list[BaseException] = field(default_factory=list)

    @property
    def given(self) -> Path:
        """The folder of the damaged files."""
        return self.root / "given"

    @property
    def out(self) -> Path:
        """The folder of the outputs."""
        return self.root / "out"


Target = Callable[[Place], None]


def command(*arguments: object) -> None:
    """A command of medidiff; what its ``main`` would turn into a sentence is raised."""
    from medidiff.cli import app

    try:
        app.app.main([str(each) for each in arguments], "medidiff", standalone_mode=False, obj=app.State())
    except (click.ClickException, click.exceptions.Exit, SystemExit):
        return


def allowed(action: Callable[[], object]) -> None:
    """Do something that may raise medidiff's errors, except for want of memory: the files are small."""
    try:
        action()
    except OutOfMemory:
        raise
    except MedidiffError:
        return


def scans_of(place: Place) -> None:
    """Find and read what lies in a folder, and show it, or restore and write it."""
    if place.rng.random() < 0.35 and not place.deep:
        if place.rng.random() < 0.2:
            allowed(lambda: command("denoise", place.given, "-o", place.out, "--dry-run"))
        else:
            allowed(lambda: command("info", place.given, *(["--json"] if place.rng.random() < 0.5 else [])))
        return
    task = place.rng.choice(("denoise", "denoise", "superres", "inpaint"))
    more = {"mask": place.given} if task == "inpaint" and place.rng.random() < 0.5 else {}
    restore(place, [place.given], task, **more)


def restore(place: Place, inputs: Sequence[Path], task: str, **more: Any) -> None:
    """A whole run."""
    from medidiff.runs import run
    from medidiff.runs.reporter import Silent

    options = RestoreOptions(noise=5) if place.deep and task == "denoise" else RestoreOptions()
    allowed(
        lambda: run(
            RunConfig(inputs=tuple(inputs), output=place.out, task=task, pipeline=NAME, uncertainty=True,
                      restore=options, **more),
            reporter=Silent(),
        )
    )  # fmt: skip


def masks_of(place: Place) -> None:
    """Read the mask in a folder for a sound scan, NIfTI or DICOM."""
    from medidiff.scans import open_scan, read_mask

    (mask,) = (path for path in place.given.iterdir() if path.is_file())
    scan = place.given / place.rng.choice(("nifti", "series"))
    allowed(lambda: read_mask(mask, open_scan(scan)))
    if place.rng.random() < 0.3:
        restore(place, [scan], place.rng.choice(("inpaint", "superres")), mask=mask)


def settings_of(place: Place) -> None:
    """Read settings and recipes."""
    from medidiff.cli import train

    (file,) = (path for path in place.given.iterdir() if path.suffix == ".toml")
    allowed(lambda: command("denoise", "--config", file, "--dry-run"))
    allowed(lambda: command("denoise", place.given / "scan.nii.gz", "-o", place.out, "--config", file))
    if file.name != "run.toml":
        allowed(lambda: train.recipe_of(file))


def records_of(place: Place) -> None:
    """Verify, repeat, resume, evaluate and report a finished run of which a record was damaged."""
    from medidiff.evaluation import pairing

    sidecars = sorted(place.given.glob("*_*.json"))
    for choice in place.rng.sample(range(7), 2):
        match choice:
            case 0:
                allowed(lambda: command("verify", place.given, "--no-rerun"))
            case 1:
                allowed(lambda: command("verify", place.given, "--json"))
            case 2:
                allowed(lambda: command("verify", place.rng.choice(sidecars)))
            case 3:
                record = place.rng.choice((place.given / "run.json", *sidecars))
                allowed(partial(command, "denoise", "--config", record, "--dry-run"))
            case 4:
                allowed(lambda: pairing.find(place.given, None, None))
            case 5 if place.rng.random() < 0.04:
                allowed(lambda: command("report", place.given, "-o", place.out / "report.html"))
            case _:
                allowed(lambda: command("denoise", place.given / "scans", "-o", place.given, "--dry-run"))


def bundles_of(place: Place) -> None:
    """Read a bundle, list it, build its network, and restore with it."""
    folder = place.given / NAME
    allowed(lambda: bundles.read(folder))
    allowed(lambda: bundles.locate(folder).network())
    with mock.patch.object(bundles, "folders", return_value=[place.given]):
        allowed(lambda: command("list", *(["--json"] if place.rng.random() < 0.5 else [])))
        if place.deep:
            restore(place, [place.given / "scan.nii.gz"], place.rng.choice(("denoise", "superres")))
    for task in ("denoise", "inpaint"):
        allowed(lambda task=task: pipelines.load(folder, task))  # type: ignore[misc]


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        seeds: each the files of a sound input, and the name of the one to damage.
        target: where they enter.
    """

    seeds: Sequence[tuple[Files, str]]
    target: Target

    def make(self, rng: Random) -> Files:
        """A damaged input."""
        files, name = rng.choice(self.seeds)
        others = [data for each, _ in self.seeds for path, data in each.items() if path.endswith(name[-3:])]
        damaged = fuzz_mutate.by_name(name)(files[name], rng, others or [files[name]])
        if name.endswith(".json") and "seal" in files[name].decode() and rng.random() < 0.6:
            damaged = sealed(damaged)
        return {**files, name: damaged}


def sealed(data: bytes) -> bytes:
    """A sidecar with seals that fit what it says, as somebody who wants to deceive would make them."""
    from medidiff.runs import seal

    try:
        found = json.loads(data)
        fresh = seal.sealed({key: value for key, value in found.items() if key != seal.SEAL})
        return json.dumps(fresh).encode("utf-8", "surrogatepass")
    except (ValueError, AttributeError, RecursionError):
        return data


def kinds(home: Path, real: Path | None) -> dict[str, Kind]:
    """All kinds of input; ``home`` is a folder for what they are made from."""
    scan = dict(fuzz_seeds.niftis())["b.nii.gz"]
    sound = {f"series/s{k}.dcm": fuzz_seeds.slice_of(k) for k in range(4)} | {"nifti/scan.nii.gz": scan}
    records = finished_run(home, scan)
    bundle = files_below(fuzz_seeds.bundle(home / "bundle" / NAME).parent) | {"scan.nii.gz": scan}
    of_bundle = [f"{NAME}/configs/metadata.json"] * 5 + [f"{NAME}/model.safetensors"]
    of_run = ["run.json", *(name for name in records if name.count("/") == 0 and "_" in name and name.endswith("json"))]
    hdr, img = pair()
    return {
        "NIfTI": Kind(
            [({name: data}, name) for name, data in fuzz_seeds.niftis()] + [({"p.hdr": hdr, "p.img": img}, "p.hdr")],
            scans_of,
        ),
        "DICOM": Kind([(files, next(iter(files))) for files in fuzz_seeds.series(real)], scans_of),
        "mask": Kind([({name: data, **sound}, name) for name, data in fuzz_seeds.masks()], masks_of),
        "settings": Kind(
            [({name: data, "scan.nii.gz": scan}, name) for name, data in fuzz_seeds.configs()], settings_of
        ),
        "record": Kind([(records, name) for name in of_run], records_of),
        "bundle": Kind([(bundle, name) for name in of_bundle], bundles_of),
    }


def pair() -> tuple[bytes, bytes]:
    """A NIfTI pair of header and image."""
    image = nib.Nifti1Pair(fuzz_seeds.array(), np.eye(4))
    for part in image.file_map.values():
        part.fileobj = io.BytesIO()
    image.to_file_map()
    return image.file_map["header"].fileobj.getvalue(), image.file_map["image"].fileobj.getvalue()


def finished_run(home: Path, scan: bytes) -> Files:
    """The files of a run over a NIfTI scan and a series."""
    folder = home / "run"
    for name, data in {"t1.nii.gz": scan, **{f"dicom/s{k}.dcm": fuzz_seeds.slice_of(k) for k in range(3)}}.items():
        path = folder / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    hole = folder / "scans" / "hole.nii.gz"
    hole.write_bytes(fuzz_seeds.masks()[0][1])
    restore(Place(home, Random(0)), [folder / "scans/t1.nii.gz", folder / "scans/dicom"], "denoise")
    for path in (home / "out").iterdir():
        path.rename(folder / path.name)
    (home / "out").rmdir()
    text = {name: (folder / name).read_text().replace("../run/scans", "scans") for name in ("run.json",)}
    (folder / "run.json").write_text(text["run.json"])
    for file in folder.glob("*_denoised.json"):
        found = json.loads(file.read_text().replace("../run/scans", "scans"))
        file.write_bytes(sealed(json.dumps(found).encode()))
    return files_below(folder)


def files_below(folder: Path) -> Files:
    """All files of a folder by their relative paths."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@contextmanager
def stand_in(home: Path) -> Iterator[None]:
    """Let every run go through the stand-in, with one bundle installed."""
    fuzz_seeds.bundle(home / "installed" / NAME)

    def load(name: str | Path = "auto", task: Any = "denoise", *, compute: Any = None) -> StandIn:
        return StandIn(bundles.read(pipelines.candidates(name, task=task)[0].path), task)

    with (
        mock.patch.object(bundles, "folders", return_value=[home / "installed"]),
        mock.patch.object(pipelines, "load", load),
        mock.patch.object(garbage, "lighten"),  # it walks over all of torch for each case
        mock.patch.object(estimate, "probe", return_value=(None, None)),  # which runs a network
        mock.patch.object(estimate, "of_volume", return_value=1.0),
    ):
        yield


LOAD = pipelines.load


def attempt(kind: Kind, files: Files, place: Place) -> None:
    """Let one input in.

    Raises:
        Exception: what must not happen.
    """
    for name, data in files.items():
        path = place.given / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    sentence = failures.sentence

    def watched(error: BaseException, ref: Any) -> str:
        known = failures.classified(error)
        if not isinstance(known, MedidiffError) or isinstance(known, OutOfMemory):
            place.unexpected.append(error)
        return sentence(error, ref)

    with mock.patch.object(failures, "sentence", watched):
        if place.deep:
            with mock.patch.object(pipelines, "load", LOAD):
                kind.target(place)
        else:
            kind.target(place)
    if place.unexpected:
        raise place.unexpected[0]
    inspect(files, place)


def inspect(files: Files, place: Place) -> None:
    """What must hold after an input, however it ended.

    Raises:
        Wrong: it does not.
    """
    strangers = {path.name for path in place.root.iterdir()} - {"given", "out"}
    if strangers:
        raise Wrong(f"written elsewhere: {sorted(strangers)}")
    if files_below(place.given) != files:
        raise Wrong("the input was changed")
    for path in place.out.rglob("*") if place.out.exists() else ():
        if path.name.startswith(outputs.TEMPORARY):
            raise Wrong(f"a temporary file is left: {path.name}")
        if path.suffix == ".json":
            complete(path)
        elif path.name.endswith((".nii", ".nii.gz")):
            np.asanyarray(nib.load(path).dataobj)
        elif path.suffix == ".dcm":
            pydicom.dcmread(path)


def complete(path: Path) -> None:
    """Whether a sidecar lists what lies beside it.

    Raises:
        Wrong: it does not.
    """
    tree = json.loads(path.read_text(encoding="utf-8"))
    for entry in tree["outputs"] if sidecar.is_ours(tree) else ():
        if hashlib.sha256((path.parent / entry["path"]).read_bytes()).hexdigest() != entry["sha256"]:
            raise Wrong(f"{entry['path']} is not what its sidecar says")


def cleared(root: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    return root
