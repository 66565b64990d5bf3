"""Bundles and pipelines: found, verified, loaded, and called with whatever a script holds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from safetensors.torch import save_file

import medidiff
from medidiff import bundles, pipelines
from medidiff.config import ComputeOptions, RestoreOptions
from medidiff.diffusion.network import MedUNet
from medidiff.errors import CannotWrite, PipelineError, ScanError, UsageError
from medidiff.inferer import RestorationInferer
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names
from medidiff.pipelines import AutoPipeline, DenoisePipeline, InpaintPipeline, PipelineInfo, SuperResolvePipeline
from medidiff.scans.in_memory import to_scan
from medidiff.scans.volume import Volume

NETWORK = {
    "spatial_dims": 3,
    "in_channels": STATE_CHANNELS + len(VIEWS),
    "parameters": len(parameter_names(3)),
    "channels": [4],
    "encoder_blocks": [1],
    "decoder_blocks": [],
    "embedding": 8,
}
CPU = ComputeOptions(device="cpu")


PLANAR = {**NETWORK, "spatial_dims": 2, "parameters": len(parameter_names(2))}
TASKS = ["denoise", "superres", "inpaint"]


def make_bundle(folder: Path, built: dict[str, Any] = NETWORK, **changes: Any) -> Path:
    """A bundle with a network of random weights, those included that training starts from zero."""
    torch.manual_seed(0)
    network = MedUNet(**built)
    for name, parameter in network.named_parameters():
        if "film" in name or "head" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    weights = folder / "models" / "model.safetensors"
    save_file({key: value.half() for key, value in network.state_dict().items()}, weights)
    settings = {
        "tasks": TASKS,
        "modalities": ["MR"],
        "licence": "CC0-1.0",
        "network": built,
        "halo": 16,
        "weights": {
            "file": "models/model.safetensors",
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        },
        **changes,
    }
    metadata = {"version": "1.2.3", "description": "For tests.", "medidiff": settings}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The only folder in which bundles are looked for."""
    folder = tmp_path / "bundles"
    folder.mkdir()
    monkeypatch.setattr(bundles, "folders", lambda: iter([folder]))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def pipeline(bundle) -> pipelines.Pipeline:
    return pipelines.load(bundle, compute=CPU)


@pytest.fixture(scope="module")
def volume() -> Volume:
    rng = np.random.default_rng(0)
    clean = np.where(np.indices((20, 18, 10)).sum(0) > 20, 300.0, 100.0)
    noisy = np.hypot(clean + 20 * rng.standard_normal(clean.shape), 20 * rng.standard_normal(clean.shape))
    return Volume(noisy.astype(np.float32), np.diag([1, 1.5, 2, 1.0]), "MR")


def test_loaded_pipeline_tells_who_it_is(pipeline, bundle):
    digest = hashlib.sha256((bundle / "models" / "model.safetensors").read_bytes()).hexdigest()
    assert (pipeline.name, pipeline.version, pipeline.summary) == ("tiny", "1.2.3", "For tests.")
    assert (pipeline.weights_sha256, pipeline.path, pipeline.device) == (digest, bundle, "cpu")
    assert isinstance(pipeline, DenoisePipeline)
    assert repr(pipeline) == "<DenoisePipeline: tiny 1.2.3 on cpu>"


def test_restoration_is_that_of_the_weights(pipeline, volume, bundle, tmp_path):
    restoration = pipeline.restore(volume, RestoreOptions(noise=7))
    record = restoration.record
    assert (record["pipeline"], record["version"], record["warnings"]) == ("tiny", "1.2.3", [])
    assert repr(restoration) == "<Restoration: 20 x 18 x 10 in a.u., 0 samples, by tiny>"
    assert record["weights_sha256"] == pipeline.weights_sha256
    again = pipelines.load(bundle, compute=CPU).restore(volume, RestoreOptions(noise=7))
    np.testing.assert_array_equal(restoration.mean, again.mean)
    silent = make_bundle(tmp_path / "silent")
    path = silent / "models" / "model.safetensors"
    save_file({key: value.half() for key, value in MedUNet(**NETWORK).state_dict().items()}, path)
    metadata = json.loads((silent / bundles.METADATA).read_text())
    metadata["medidiff"]["weights"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (silent / bundles.METADATA).write_text(json.dumps(metadata))
    base = pipelines.load(silent, compute=CPU).restore(volume, RestoreOptions(noise=7)).mean
    assert float(np.abs(base - restoration.mean).max()) > 1


def test_every_form_of_a_scan_gives_the_same(pipeline, volume, tmp_path):
    image = nib.Nifti1Image(volume.array, volume.affine)
    nib.save(image, tmp_path / "scan.nii.gz")
    expected = pipeline(volume, noise=7).mean
    forms = [tmp_path / "scan.nii.gz", str(tmp_path / "scan.nii.gz"), image, (volume.array, volume.affine)]
    for form in forms:
        np.testing.assert_allclose(pipeline(form, noise=7).mean, expected, rtol=1e-6)


def test_tensors_are_arrays_whatever_their_kind_and_gradient(pipeline, volume):
    coarse = torch.from_numpy(volume.array).bfloat16()
    expected = pipeline((coarse.float().numpy(), volume.affine), noise=7).mean
    affine = torch.from_numpy(volume.affine).requires_grad_()
    for tensor in (coarse, coarse.float().requires_grad_()):
        np.testing.assert_array_equal(pipeline((tensor, affine), noise=7).mean, expected)


def test_one_call_denoises(bundle, volume, pipeline):
    found = medidiff.denoise(volume, pipeline=bundle, compute=CPU, noise=7, strength=0.5)
    np.testing.assert_array_equal(found.mean, pipeline(volume, noise=7, strength=0.5).mean)
    assert found.record["strength"] == 0.5


def test_plane_is_a_volume_of_one_slice(pipeline, volume):
    plane = volume.array[:, :, 4]
    found = pipeline((plane, volume.affine), noise=7).mean
    assert found.shape == (*plane.shape, 1)
    np.testing.assert_array_equal(found, pipeline(replace(volume, array=plane[:, :, None]), noise=7).mean)


def test_values_that_are_not_finite_are_not_measured(pipeline, volume):
    array = volume.array.copy()
    array[:3] = np.nan
    array[5, 5, 5] = np.inf
    source = to_scan((array, volume.affine)).volumes[0]
    assert source.valid is not None
    np.testing.assert_array_equal(source.valid, np.isfinite(array))
    found = pipeline((array, volume.affine), noise=7)
    np.testing.assert_array_equal(np.isfinite(found.mean), source.valid)
    assert found.mean[source.valid].all()


def test_a_named_pipeline_for_ct_takes_a_part_without_air(bundle, tmp_path, volume):
    """Parts of a CT hold no air to be known by; a magnitude image has no values below 0."""
    soft = (volume.array - volume.array.mean()) / volume.array.std() * 40
    named = pipelines.load(make_bundle(tmp_path / "named", modalities=["CT"]), compute=CPU)
    found = named((soft, volume.affine), noise=7)
    assert (found.record["modality"], found.record["noise_law"], found.volume.units) == ("CT", "gaussian", "HU")
    assert named((np.abs(soft), volume.affine), noise=7).record["modality"] == "MR"
    with pytest.raises(ScanError, match="% of its values are negative"):
        pipelines.load(bundle, compute=CPU)((soft, volume.affine), noise=7)


def test_modality_is_guessed_from_values(volume):
    hounsfield = np.clip(volume.array * 8 - 1000, -1000, 1500)
    hounsfield[:4] = -1000
    guessed = to_scan((hounsfield, volume.affine)).volumes[0]
    assert (guessed.modality, guessed.units) == ("CT", "HU")
    assert to_scan((volume.array, volume.affine)).volumes[0].modality == "MR"


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (3, UsageError, "not int"),
        ((), UsageError, "pair, not 0 things"),
        ((np.ones((4, 4, 4)),), UsageError, "pair, not 1 things"),
        ((np.ones((4, 4, 4)), np.eye(4), "MR"), UsageError, "pair, not 3 things"),
        (([[1, 2], [3]], np.eye(4)), ScanError, "The scan is not an array"),
        ((np.zeros((2, 2, 2, 2)), np.eye(4)), ScanError, r"shape \(2, 2, 2, 2\)"),
        ((np.zeros((0, 2, 2)), np.eye(4)), ScanError, "not one volume"),
        ((np.full((2, 2, 2), np.nan), np.eye(4)), ScanError, "no finite value"),
        ((np.full((2, 2, 2), -1e300), np.eye(4)), ScanError, "values lie beyond 3e38, so they cannot be restored"),
        ("no_such_scan.nii.gz", UsageError, "no_such_scan"),
    ],
)
def test_what_is_no_scan_is_refused(pipeline, source, error, words):
    with pytest.raises(error, match=words):
        pipeline(source)


@pytest.mark.parametrize("affine", [None, np.eye(3), np.diag([np.nan, 1, 1, 1]), np.diag([1, np.inf, 1, 1]), "RAS"])
def test_what_is_no_affine_is_refused(bundle, pipeline, volume, affine):
    words = "affine is not a matrix of 4 x 4 finite numbers"
    with pytest.raises(ScanError, match=words):
        pipeline((volume.array, affine))
    with pytest.raises(ScanError, match=words):
        pipeline(replace(volume, affine=affine))
    with pytest.raises(ScanError, match=words):
        medidiff.inpaint((volume.array, affine), np.ones(volume.array.shape), pipeline=bundle, compute=CPU)


@pytest.mark.parametrize(
    "affine",
    [np.zeros((4, 4)), np.diag([0, 0, 0, 1.0]), np.eye(4)[:, [0, 0, 2, 3]], np.array([*np.ones((3, 4)), [0, 0, 0, 1]])],
)
def test_a_singular_affine_is_refused(bundle, pipeline, volume, affine):
    words = "affine is singular: no axis of it has a length, or two run along each other"
    with pytest.raises(ScanError, match=words):
        pipeline((volume.array, affine))
    with pytest.raises(ScanError, match=words):
        medidiff.inpaint(replace(volume, affine=affine), np.ones(volume.array.shape), pipeline=bundle, compute=CPU)


@pytest.mark.parametrize("degenerate", [np.diag([0, 1, 0, 1.0]), np.diag([1, 1, 0, 1.0])])
def test_axis_without_a_length_counts_as_1_mm(home, volume, tmp_path, degenerate):
    make_bundle(home / "image2d", PLANAR, modalities=["XR"])
    make_bundle(home / "mr")
    hole = np.zeros(volume.array.shape, bool)
    hole[5:9, 6:10, 3:6] = True
    plain = np.eye(4)
    for task, options in (("denoise", {"noise": 7}), ("superres", {"factor": (1, 1, 2)}), ("inpaint", {"mask": hole})):
        pipeline = pipelines.load("auto", task, compute=CPU)
        found, expected = (pipeline((volume.array, affine), **options) for affine in (degenerate, plain))
        np.testing.assert_array_equal(found.mean, expected.mean)
        back = nib.load(found.save(tmp_path / f"{task}.nii.gz"))
        np.testing.assert_allclose(back.affine, found.affine)
        assert back.header.get_zooms()[:2] == (1, 1)


def test_what_is_not_real_is_refused_as_in_a_file(bundle, pipeline, volume, tmp_path):
    twisted = volume.array * np.complex64(1 + 1j)
    image = nib.Nifti1Image(twisted, volume.affine)
    nib.save(image, tmp_path / "scan.nii.gz")
    for source in ((twisted, volume.affine), image, nib.load(tmp_path / "scan.nii.gz"), tmp_path / "scan.nii.gz"):
        with pytest.raises(ScanError, match="holds complex values"):
            pipeline(source)
    with pytest.raises(ScanError, match="The scan holds values of type <U1"):
        pipeline((np.full((4, 4, 4), "x"), volume.affine))
    for mask in (twisted, image):
        with pytest.raises(ScanError, match="The mask holds complex values"):
            medidiff.inpaint(volume, mask, pipeline=bundle, compute=CPU)


def test_one_volume_along_a_fourth_axis_is_a_volume_as_in_a_file(bundle, pipeline, volume, tmp_path):
    array, hole = volume.array[..., None], np.zeros((*volume.array.shape, 1), np.uint8)
    hole[5:9, 6:10, 3:6] = 1
    scan, mask = (nib.Nifti1Image(each, volume.affine) for each in (array, hole))
    nib.save(scan, tmp_path / "scan.nii.gz")
    nib.save(mask, tmp_path / "hole.nii.gz")
    expected = pipeline(tmp_path / "scan.nii.gz", noise=7).mean
    for source in (scan, (array, volume.affine), (array[..., None], volume.affine)):
        np.testing.assert_array_equal(pipeline(source, noise=7).mean, expected)
    inpaint = pipelines.load(bundle, "inpaint", compute=CPU)
    expected = inpaint(volume, tmp_path / "hole.nii.gz").mean
    for given in (mask, hole):
        np.testing.assert_array_equal(inpaint(volume, given).mean, expected)


@pytest.mark.parametrize("damage", [np.nan, np.ma.masked])
def test_what_is_not_known_of_a_mask_is_no_hole(bundle, volume, tmp_path, damage):
    hole = np.ma.zeros(volume.array.shape) if damage is np.ma.masked else np.zeros(volume.array.shape)
    hole[5:9, 6:10, 3:6] = 1
    hole[0, 0, 0] = damage
    given: list[Any] = [hole]
    if damage is not np.ma.masked:
        given += [nib.Nifti1Image(hole, volume.affine), tmp_path / "hole.nii.gz"]
        nib.save(given[1], given[2])
    for mask in given:
        with pytest.raises(ScanError, match=r"mask .*holds NaN" if len(given) > 1 else "The mask is a masked array"):
            medidiff.inpaint(volume, mask, pipeline=bundle, compute=CPU)


def test_masked_array_is_refused(pipeline, volume):
    masked = np.ma.masked_less(volume.array, 100)
    with pytest.raises(ScanError, match="The scan is a masked array; give a plain one, with NaN"):
        pipeline((masked, volume.affine))
    pipeline((masked.filled(np.nan), volume.affine), noise=7)


@pytest.mark.parametrize("name", ["o", "o.mgz", "o.txt", "o.hdr", ".nii", "", "."])
def test_result_is_called_as_a_nifti_file(pipeline, volume, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    restoration = pipeline(volume, noise=7)
    with pytest.raises(CannotWrite, match=r"is not the name of a NIfTI file; let it end with .nii.gz or .nii"):
        restoration.save(name)
    assert not list(tmp_path.iterdir())
    for good in ("o.nii", "in/O.NII.GZ"):
        np.testing.assert_array_equal(nib.load(restoration.save(good)).get_fdata(), restoration.mean)


def test_file_with_several_volumes_is_refused(pipeline, volume, tmp_path):
    nib.save(nib.Nifti1Image(np.stack([volume.array] * 3, axis=-1), volume.affine), tmp_path / "four.nii.gz")
    with pytest.raises(UsageError, match="3 volumes"):
        pipeline(tmp_path / "four.nii.gz")


@pytest.mark.parametrize("options", [{"noise": -1}, {"noise": "low"}, {"strength": 2}, {"stregth": 1}, {"steps": 0}])
def test_wrong_options_are_named(pipeline, volume, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        pipeline(volume, **options)


def test_scan_of_another_modality_is_restored_with_a_warning(pipeline, volume):
    other = replace(volume, modality="PT")
    assert any("trained on MR scans, not on PT" in warning for warning in pipeline(other, noise=7).record["warnings"])
    with pytest.raises(ScanError, match=r"trained on MR scans, not on CT.*--force"):
        pipeline(replace(volume, modality="CT"), noise=7)
    forced = pipeline(replace(volume, modality="CT"), noise=7, force=True)
    assert any("trained on MR scans, not on CT" in warning for warning in forced.record["warnings"])


def test_settings_that_are_none_are_refused(bundle, pipeline, volume):
    with pytest.raises(UsageError, match=r"Give a medidiff.config.RestoreOptions, not dict"):
        pipeline.restore(volume, {"noise": 9})
    for load in (pipelines.load, DenoisePipeline.load, lambda _, compute: AutoPipeline("denoise", compute=compute)):
        with pytest.raises(UsageError, match=r"Give a medidiff.config.ComputeOptions, not dict"):
            load(bundle, compute={"threads": 1})
    for name in (None, 3):
        with pytest.raises(UsageError, match="A pipeline is the name of one or its bundle's folder, not"):
            pipelines.load(name)


@pytest.mark.parametrize("task", ["superres", "inpaint"])
def test_what_the_hole_holds_decides_nothing(bundle, volume, task):
    hole = np.zeros(volume.array.shape, bool)
    hole[8:12, 6:10, 3:6] = True
    pipe = pipelines.load(bundle, task, compute=CPU)
    found = [pipe((np.where(hole, value, volume.array), volume.affine), hole) for value in (0.0, -1000.0)]
    assert [each.record["modality"] for each in found] == ["MR", "MR"]
    np.testing.assert_array_equal(found[0].mean, found[1].mean)


@pytest.mark.parametrize("task", ["denoise", "superres", "inpaint"])
def test_what_has_no_value_has_none_afterwards(bundle, volume, task):
    array, hole = volume.array.copy(), np.zeros(volume.array.shape, bool)
    array[2:5, 6:9, 3:6] = np.nan
    hole[4:7, 6:9, 3:6] = task != "denoise"
    options = {"factor": (1, 1, 2)} if task == "superres" else {}
    mask = () if task == "denoise" else (hole,)
    found = pipelines.load(bundle, task, compute=CPU)((array, volume.affine), *mask, samples=1, **options)
    expected = np.isfinite(array) | hole
    if task == "superres":
        expected = expected.repeat(2, axis=2)
    for image in (found.mean, *found.samples):
        np.testing.assert_array_equal(np.isfinite(image), expected)


def test_tile_without_room_for_its_context_is_refused(bundle):
    with pytest.raises(UsageError, match="--tile 32 is too small: pipeline tiny needs more than 32"):
        pipelines.load(bundle, compute=ComputeOptions(device="cpu", tile=32))
    assert pipelines.load(bundle, compute=ComputeOptions(device="cpu", tile=40)).device == "cpu"


def test_available_and_candidates(home):
    make_bundle(home / "b")
    make_bundle(home / "a", tasks=["sharpen"])
    (home / "not_a_bundle").mkdir()
    assert [info.name for info in pipelines.available()] == ["a", "b"]
    (info,) = pipelines.candidates()
    assert (info.name, info.tasks, info.modalities, info.licence) == ("b", tuple(TASKS), ("MR",), "CC0-1.0")
    assert info.spatial_dims == 3
    assert pipelines.load("b", compute=CPU).name == "b"
    with pytest.raises(PipelineError, match="a does not denoise; it does: sharpen"):
        pipelines.candidates("a")
    with pytest.raises(PipelineError, match="no pipeline 'c'; known are: a, b"):
        pipelines.candidates("c")


def test_nothing_installed(home):
    assert pipelines.available() == []
    with pytest.raises(PipelineError, match="No installed pipeline can denoise"):
        pipelines.candidates()
    with pytest.raises(PipelineError, match="No installed pipeline can inpaint"):
        pipelines.load(task="inpaint")
    with pytest.raises(UsageError, match="no task 'sharpen'; there are denoise, superres, inpaint"):
        pipelines.load(task="sharpen")


def test_environment_names_folders_that_come_first(tmp_path, monkeypatch):
    make_bundle(tmp_path / "mine" / "mr", licence="mine")
    monkeypatch.setenv("MEDIDIFF_BUNDLES", str(tmp_path / "mine"))
    assert pipelines.candidates("mr")[0].licence == "mine"


def info(name: str, dims: int, *modalities: str) -> PipelineInfo:
    return PipelineInfo(name, "1.0.0", tuple(TASKS), modalities, "", Path(name), "", name, dims)


SHIPPED = (info("image2d", 2, "XR", "SM", "MR"), info("mr", 3, "MR"))


@pytest.mark.parametrize(
    ("modality", "depth", "among", "expected"),
    [
        ("MR", 9, SHIPPED, "mr"),  # a volume of the modality that both know
        ("MR", 1, SHIPPED, "image2d"),  # a single slice
        ("XR", 1, SHIPPED, "image2d"),
        ("XR", 9, SHIPPED, "image2d"),  # a modality that only images have: slice by slice
        ("CT", 9, SHIPPED, "mr"),  # nobody knows it
        ("CT", 1, SHIPPED, "image2d"),
        ("CT", 9, (info("a", 3, "MR"), info("b", 3, "CT")), "b"),
        ("CT", 1, (info("a", 2, "XR"), info("b", 2, "CT")), "b"),
        ("CT", 9, (info("a", 3, "MR"), info("b", 3)), "b"),  # no list of modalities: any
        ("PT", 9, (info("a", 3, "MR"), info("b", 3, "CT")), "a"),
        ("MR", 1, (info("mr", 3, "MR"),), "mr"),
    ],
)
def test_choice_fits_the_scan(modality, depth, among, expected):
    scan = Volume(np.zeros((4, 5, depth), np.float32), np.eye(4), modality)
    assert pipelines.choose(scan, among).name == expected


@pytest.mark.parametrize(
    ("slices", "task", "expected"),
    [(3.0, "denoise", "ct"), (3.1, "denoise", "image2d"), (3.1, "inpaint", "image2d"), (8.0, "superres", "ct")],
)
def test_slices_too_thick_for_a_pipeline_are_treated_one_by_one_unless_they_become_finer(slices, task, expected):
    among = (info("image2d", 2, "CT"), replace(info("ct", 3, "CT"), anisotropy=1.5))
    scan = Volume(np.zeros((4, 5, 9), np.float32), np.diag([1.0, 1.0, slices, 1.0]), "CT")
    assert pipelines.choose(scan, among, task).name == expected


def test_series_that_lacks_slices_goes_to_a_pipeline_for_volumes():
    array = np.zeros((4, 5, 9), np.float32)
    gap = np.zeros(array.shape, bool)
    gap[:, :, 4] = True
    scan = Volume(array, np.eye(4), "XR", missing=gap)
    assert pipelines.choose(scan, SHIPPED).name == "mr"
    assert pipelines.choose(replace(scan, missing=None), SHIPPED).name == "image2d"


def test_auto_sends_each_scan_to_its_pipeline(home, volume):
    make_bundle(home / "image2d", PLANAR, modalities=["XR"])
    make_bundle(home / "mr")
    auto = pipelines.load("auto", compute=CPU)
    assert isinstance(auto, AutoPipeline)
    assert repr(auto).startswith("<AutoPipeline: denoise by one of image2d ")
    plane = replace(volume, array=volume.array[:, :, 4:5])
    assert auto(volume, noise=7).record["pipeline"] == "mr"
    restored = auto(plane, noise=7)
    assert restored.record["pipeline"] == "image2d"
    np.testing.assert_array_equal(restored.mean, pipelines.load("image2d", compute=CPU)(plane, noise=7).mean)
    assert auto.choose(volume) is auto.choose(volume)


def test_auto_loads_a_pipeline_when_its_first_scan_comes(home, volume):
    make_bundle(home / "image2d", PLANAR, modalities=["XR"])
    (make_bundle(home / "mr") / "models" / "model.safetensors").unlink()
    auto = pipelines.load("auto", compute=CPU)
    assert auto.choose(replace(volume, array=volume.array[:, :, :1])).name == "image2d"
    with pytest.raises(PipelineError, match="Pipeline mr"):
        auto(volume)
    with pytest.raises(UsageError, match="cuda:9"):
        pipelines.load("auto", compute=ComputeOptions(device="cuda:9"))
    with pytest.raises(PipelineError, match="auto may mean image2d, mr; name one"):
        DenoisePipeline.load(compute=CPU)


def test_auto_is_the_only_pipeline_itself(home):
    make_bundle(home / "image2d", PLANAR, modalities=["XR"], tasks=["denoise"])
    make_bundle(home / "mr")
    assert isinstance(pipelines.load("auto", "inpaint", compute=CPU), InpaintPipeline)


def test_superresolve_makes_voxels_finer_and_keeps_what_was_measured(bundle, volume):
    found = medidiff.superresolve(volume, pipeline=bundle, compute=CPU, factor=(1, 1, 2))
    assert found.mean.shape == (20, 18, 20)
    np.testing.assert_allclose(found.affine @ [0, 0, -0.5, 1], volume.affine @ [0, 0, -0.5, 1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.affine[:3, :3], axis=0), [1, 1.5, 1])
    assert found.record["task"] == "superres"
    assert isinstance(pipelines.load(bundle, "superres", compute=CPU), SuperResolvePipeline)


def test_every_form_of_a_mask_fills_the_same_hole(bundle, volume, tmp_path):
    hole = np.zeros(volume.array.shape, np.uint8)
    hole[5:9, 6:10, 3:6] = 3
    image = nib.Nifti1Image(hole, volume.affine)
    nib.save(image, tmp_path / "hole.nii.gz")
    pipeline = pipelines.load(bundle, "inpaint", compute=CPU)
    expected = pipeline(volume, hole > 0).mean
    np.testing.assert_array_equal(expected[hole == 0], volume.array[hole == 0])
    assert np.abs(expected - volume.array)[hole > 0].max() > 1
    for mask in (hole, image, torch.from_numpy(hole), tmp_path / "hole.nii.gz", str(tmp_path / "hole.nii.gz")):
        np.testing.assert_array_equal(pipeline(volume, mask).mean, expected)
    np.testing.assert_array_equal(medidiff.inpaint(volume, hole, pipeline=bundle, compute=CPU).mean, expected)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (None, UsageError, "inpaint needs a mask"),
        (3, UsageError, "not int"),
        (np.ones((2, 2, 2)), ScanError, "does not lie on the grid"),
        (np.zeros((20, 18, 10)), ScanError, "empty"),
        (nib.Nifti1Image(np.ones((20, 18, 10), np.uint8), np.eye(4)), ScanError, "does not lie on the grid"),
        ("no_such_mask.nii.gz", UsageError, "no_such_mask"),
    ],
)
def test_what_is_no_mask_is_refused(bundle, volume, mask, error, words):
    with pytest.raises(error, match=words):
        medidiff.inpaint(volume, mask, pipeline=bundle, compute=CPU)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask": np.ones((20, 18, 10))}, "denoise takes no mask"),
        ({"factor": 2}, "factor, spacing and profile belong to superres"),
        ({"profile": "box"}, "factor, spacing and profile belong to superres"),
        ({"gamma": 0.5}, "gamma mixes a posterior sample in"),
        ({"samples": 2, "steps": 1}, "samples need steps of 2 or more"),
    ],
)
def test_options_of_another_task_are_refused(pipeline, volume, options, words):
    with pytest.raises(UsageError, match=words):
        pipeline(volume, **options)


@pytest.mark.parametrize("options", [{"factor": 2}, {"spacing": 1}, {"profile": "box"}])
def test_options_of_another_task_are_refused_however_they_come(bundle, pipeline, volume, options):
    with pytest.raises(UsageError, match="factor, spacing and profile belong to superres"):
        pipeline.restore(volume, RestoreOptions(**options))
    with pytest.raises(UsageError, match="factor, spacing and profile belong to superres"):
        RestorationInferer(bundle, **options)


def test_hole_of_any_type_is_filled_and_one_of_another_shape_refused(bundle, volume):
    hole = np.zeros(volume.array.shape, bool)
    hole[5:9, 6:10, 3:6] = True
    pipeline = pipelines.load(bundle, "inpaint", compute=CPU)
    expected = pipeline.restore(volume, hole=hole)
    for dtype in (np.uint8, np.float32):
        found = pipeline.restore(volume, hole=3 * hole.astype(dtype))
        np.testing.assert_array_equal(found.mean, expected.mean)
        assert found.record["filled_voxels"] == hole.sum()
    for wrong in (hole[:5], hole[None], [True]):
        with pytest.raises(ScanError, match="does not lie on the grid"):
            pipeline.restore(volume, hole=wrong)


@pytest.mark.parametrize("damage", ["changed", "missing", "cut"])
def test_damaged_weights_are_refused(tmp_path, damage):
    path = make_bundle(tmp_path / "x") / "models" / "model.safetensors"
    if damage == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content if damage == "changed" else content[:-10]))
    with pytest.raises(PipelineError, match="Pipeline x"):
        pipelines.load(tmp_path / "x", compute=CPU)


@pytest.mark.parametrize("network", [{**NETWORK, "channels": [6]}, {**NETWORK, "wings": 2}, {"backbone": "none"}])
def test_weights_that_do_not_fit_are_refused(tmp_path, network):
    make_bundle(tmp_path / "x", network=network)
    with pytest.raises(PipelineError, match="does not fit the network"):
        pipelines.load(tmp_path / "x", compute=CPU)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": "1", "medidiff": {}}'])
def test_folder_that_is_no_bundle(tmp_path, text):
    folder = make_bundle(tmp_path / "x")
    (folder / bundles.METADATA).write_text(text)
    with pytest.raises(PipelineError, match="metadata"):
        pipelines.load(folder)


def test_device_that_is_not_there(bundle):
    with pytest.raises(UsageError, match="cuda:9"):
        pipelines.load(bundle, compute=ComputeOptions(device="cuda:9"))


def test_weights_are_half_precision_in_full_precision_arithmetic(bundle):
    network = bundles.read(bundle).network()
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert all(torch.equal(p, p.half().float()) for p in network.parameters())
    assert not network.training


def test_monai_inferer_restores_each_image_of_a_batch_on_its_own_grid(bundle, volume):
    flipped = replace(volume, array=volume.array[::-1].copy(), affine=volume.affine @ np.diag([-1, 1, 1, 1.0]))
    stretched = replace(volume, affine=np.diag([4, 1.5, 2, 1.0]))
    parts = [volume, flipped, stretched]
    batch = MetaTensor(torch.from_numpy(np.stack([v.array for v in parts]))[:, None])
    batch.affine = torch.from_numpy(np.stack([v.affine for v in parts]))
    inferer = RestorationInferer(bundle, noise=7)
    out = inferer(batch, bundles.read(bundle).network())
    pipeline = pipelines.load(bundle, compute=CPU)
    assert out.shape == batch.shape
    for found, part in zip(out, parts, strict=True):
        np.testing.assert_allclose(np.asarray(found[0]), pipeline(part, noise=7).mean, rtol=1e-5)
    assert float((out[2] - out[0]).abs().max()) > 1e-3  # the third has other voxels, which the network is told


def test_monai_inferer_takes_plain_tensors(bundle, volume):
    image = torch.from_numpy(volume.array)[None, None]
    out = RestorationInferer(bundle, noise=7)(image, bundles.read(bundle).network())
    expected = pipelines.load(bundle, compute=CPU)(replace(volume, affine=np.eye(4)), noise=7).mean
    np.testing.assert_allclose(out[0, 0].numpy(), expected, rtol=1e-5)


def test_monai_inferer_makes_voxels_finer_and_fills_holes(bundle, volume):
    image = MetaTensor(torch.from_numpy(volume.array)[None, None], affine=torch.from_numpy(volume.affine))
    network = bundles.read(bundle).network()
    finer = RestorationInferer(bundle, task="superres", factor=(1, 1, 2))(image, network)
    expected = medidiff.superresolve(volume, pipeline=bundle, compute=CPU, factor=(1, 1, 2))
    np.testing.assert_allclose(np.asarray(finer[0, 0]), expected.mean, rtol=1e-5)
    np.testing.assert_allclose(finer.affine, expected.affine)
    hole = torch.zeros(image.shape)
    hole[:, :, 5:9, 6:10, 3:6] = 1
    filled = RestorationInferer(bundle, task="inpaint")(image, network, hole)
    expected = medidiff.inpaint(volume, hole[0, 0].numpy(), pipeline=bundle, compute=CPU)
    np.testing.assert_allclose(np.asarray(filled[0, 0]), expected.mean, rtol=1e-5)
    with pytest.raises(UsageError, match="The mask has shape"):
        RestorationInferer(bundle, task="inpaint")(image, network, hole[:, :, :5])


def test_monai_inferer_takes_planes(tmp_path, volume):
    images = make_bundle(tmp_path / "images", PLANAR)
    plane = volume.array[:, :, 4]
    out = RestorationInferer(images, noise=7)(torch.from_numpy(plane)[None, None], bundles.read(images).network())
    expected = pipelines.load(images, compute=CPU)((plane, np.eye(4)), noise=7).mean
    assert out.shape == (1, 1, 20, 18)
    np.testing.assert_allclose(out[0, 0].numpy(), expected[:, :, 0], rtol=1e-5)


def test_stack_goes_through_an_image_pipeline_slice_by_slice(tmp_path, volume):
    pipeline = pipelines.load(make_bundle(tmp_path / "images", PLANAR), compute=CPU)
    stack = pipeline(volume, noise=7)
    assert stack.record["slices_one_by_one"] is True
    assert stack.mean.shape == volume.array.shape
