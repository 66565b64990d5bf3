"""What MONAI, MONAI Label and MONAI Deploy do with an exported bundle, step by step, with MONAI's own parts.

MONAI Label and the MONAI Deploy App SDK bring heavy packages of their own, so they are not installed here. The tests
take their steps instead; each names the file that it follows.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, SaveImaged
from monai.utils import MetaKeys, SpaceKeys, convert_to_dst_type, ensure_tuple, first

import medidiff
from medidiff import bundles
from medidiff.scans.volume import Volume
from medidiff.training.bundle import _inference

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.parent.parent.name for path in (ROOT / "pipelines").glob("*/configs/metadata.json"))


@dataclass(frozen=True)
class Case:
    """An exported bundle in a folder of another name, a scan, and what medidiff itself makes of it."""

    bundle: Path
    name: str
    scan: Path
    ours: np.ndarray
    affine: np.ndarray


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("monai")
    bundle = bundles.export(request.param, folder / "for a colleague")
    crop = nib.load(ROOT / "sample_data/phantom_t1w.nii.gz").slicer[24:56, 34:66, 44:60]
    nib.save(crop, folder / "scan.nii.gz")
    # MONAI takes an image for what the bundle is for; medidiff would guess from the file that this is MR
    scan = Volume(crop.get_fdata(dtype=np.float32), crop.affine, bundle.settings["modalities"][0])
    ours = medidiff.load(bundle.path)(scan).mean
    return Case(bundle.path, request.param, folder / "scan.nii.gz", ours, crop.affine)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is not the bundle, and what a loader adds to sys.path is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def same(found: Any, case: Case) -> None:
    np.testing.assert_allclose(np.asarray(found), case.ours, atol=1e-3 * case.ours.max())


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configuration_is_the_one_that_training_writes(name: str) -> None:
    found = json.loads((ROOT / "pipelines" / name / "configs/inference.json").read_text())
    assert found == _inference(name)


def test_monai_command_runs_the_bundle(case: Case, tmp_path: Path) -> None:
    """``python -m monai.bundle run`` as a user types it, in the bundle's folder."""
    pytest.importorskip("fire")
    args = ["run", "--config_file", "configs/inference.json", "--image", str(case.scan), "--output_dir", str(tmp_path)]
    command = [sys.executable, "-m", "monai.bundle", *args]
    done = subprocess.run(command, cwd=case.bundle, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    image = nib.load(tmp_path / "scan_denoised.nii.gz")
    same(image.get_fdata(), case)
    np.testing.assert_allclose(image.affine, case.affine, atol=1e-5)


def test_monai_label_loads_and_runs_the_bundle(case: Case) -> None:
    """The steps of ``BundleInferTask`` on a request.

    Source: Project-MONAI/MONAILabel, ``monailabel/tasks/infer/bundle.py`` (``__init__``, ``_load_bundle_config``,
    ``_update_device``, ``pre_transforms``, ``inferer``, ``post_transforms``), ``basic_infer.py`` (``_get_network``,
    ``run_inferer``) and ``monailabel/transform/post.py`` (``Restored``).
    """
    path, device = str(case.bundle), "cpu"
    sys.path.insert(0, path)
    parser = ConfigParser()
    parser.read_config(str(case.bundle / "configs/inference.json"))
    parser.config.update({"bundle_root": path})
    weights = case.bundle / "models/model.pt"
    assert weights.exists()  # else the bundle is ignored
    network = parser.get_parsed_content("network_def", instantiate=True)
    metadata = json.loads((case.bundle / "configs/metadata.json").read_text())
    key_image, image_format = next(iter(metadata["network_data_format"]["inputs"].items()))
    key_pred, pred_format = next(iter(metadata["network_data_format"]["outputs"].items()))
    assert {name.lower(): int(index) for index, name in pred_format["channel_def"].items()} == {"image": 0}
    assert len(image_format["spatial_shape"]) == bundles.read(case.bundle).spatial_dims
    sys.path.remove(path)

    data: dict[str, Any] = {key_image: str(case.scan), "device": device, "model": case.name}
    parser.config.update({"device": device})
    compose = parser.get_parsed_content("preprocessing", instantiate=True)
    for transform in list(compose.transforms) if isinstance(compose, Compose) else compose:
        data = transform(data)

    inferer = parser.get_parsed_content("inferer", instantiate=True)
    mine = copy.deepcopy(network).to(torch.device(device))
    checkpoint = torch.load(weights, map_location=torch.device(device))
    state = checkpoint.get("model", checkpoint)
    assert set(network.state_dict()) == set(state)
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.zero_()  # so that it is model.pt which the result comes from
    mine.load_state_dict(state, strict=True)
    mine.eval()
    with torch.no_grad():
        outputs = inferer(data[key_image][None].to(torch.device(device)), mine)
    data[key_pred] = outputs[0]

    compose = parser.get_parsed_content("postprocessing", instantiate=True)
    post = list(compose.transforms) if isinstance(compose, Compose) else compose
    for transform in [each for each in post if not isinstance(each, SaveImaged)]:
        data = transform(data)
    meta = data[key_image].meta  # Restored
    np.testing.assert_array_equal(data[key_pred].shape[1:], meta["spatial_shape"])  # else it is resized by nearest
    restored = data[key_pred][0]
    same(restored, case)
    np.testing.assert_allclose(meta["original_affine"], case.affine, atol=1e-5)


def test_monai_deploy_loads_and_runs_the_bundle(case: Case) -> None:
    """The steps of ``MonaiBundleInferenceOperator`` on an image that came from a DICOM series.

    Source: Project-MONAI/monai-deploy-app-sdk, ``monai/deploy/operators/monai_bundle_inference_operator.py``
    (``_ensure_bundle_in_sys_path``, ``_read_directory_bundle_config``, ``_init_config``, ``filter_compose``,
    ``_load_model_from_directory_bundle``, ``_convert_from_image_dicom_source``, ``compute``), as it reads bundles that
    are folders. What follows in ``_send_output`` makes uint8 of every image, for it expects label maps.
    """
    sys.path.insert(0, str(case.bundle))
    parser = ConfigParser()
    parser.read_meta(f=json.loads((case.bundle / "configs/metadata.json").read_text()))
    parser.read_config([case.bundle / "configs/inference.json"])
    parser.parse()
    device = parser.get_parsed_content("device")
    inferer = parser.get_parsed_content("inferer")
    formats = parser["_meta_"]["network_data_format"]
    preprocessing, postprocessing = (
        filtered(parser.get_parsed_content(name)) for name in ("preprocessing", "postprocessing")
    )

    weights = case.bundle / "models/model.pt"
    assert not weights.with_suffix(".ts").exists()
    with pytest.raises(RuntimeError):  # it is tried as TorchScript first
        torch.jit.load(str(weights), map_location=device)
    network = parser.get_parsed_content("network")
    checkpoint = torch.load(str(weights), map_location=device)
    assert not {"state_dict", "model"} & checkpoint.keys()  # else what stands there is taken
    network.load_state_dict(checkpoint, strict=True)
    network = network.eval()

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ case.affine
    meta = {
        "spacing": np.linalg.norm(lps[:3, :3], axis=0),
        MetaKeys.ORIGINAL_AFFINE: lps,
        MetaKeys.AFFINE: lps.copy(),
        MetaKeys.SPACE: SpaceKeys.LPS,
        MetaKeys.SPATIAL_SHAPE: np.asarray(case.ours.shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
    }
    value = nib.load(case.scan).get_fdata(dtype=np.float32)
    value = convert_to_dst_type(value, dst=value)[0]
    with torch.no_grad():
        inputs = {name: MetaTensor.ensure_torch_and_prune_meta(value, meta) for name in formats["inputs"]}
        assert isinstance(first(preprocessing.transforms), MapTransform)
        inputs = preprocessing(inputs)
        name = next(iter(formats["inputs"]))
        outputs = inferer(inputs=inputs.pop(name)[None].to(device), network=network)
        prediction = ensure_tuple(outputs)[0]
        assert not isinstance(first(postprocessing.transforms), MapTransform)  # nothing is left of it
        prediction = postprocessing(prediction)
    assert tuple(prediction.shape) == (1, *case.ours.shape)
    same(prediction[0].cpu(), case)
    np.testing.assert_allclose(np.asarray(prediction.affine), lps, atol=1e-5)


def filtered(compose: Compose) -> Compose:
    """``filter_compose``: without what reads and writes files."""
    keep = [each for each in compose.transforms if not re.search("LoadImage|SaveImage", type(each).__name__)]
    compose.transforms = tuple(keep)
    return compose


def test_several_bundles_on_the_path_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a MONAI Deploy application with two operators: the later one comes first on ``sys.path``."""
    if len(NAMES) < 2:
        pytest.skip("only one pipeline is shipped")
    folders = {name: bundles.export(name, tmp_path / f"bundle-{name}").path for name in NAMES}
    for folder in folders.values():
        sys.path.insert(0, str(folder))
    for name, folder in folders.items():
        parser = ConfigParser()
        parser.read_config([folder / "configs/inference.json"])
        assert parser.get_parsed_content("network_def").spatial_dims == bundles.read(folder).spatial_dims
        assert bundles.root(".", name) == str(folder)
    assert bundles.root(folders[NAMES[0]], "another") == str(folders[NAMES[0]])  # what is said goes first
    monkeypatch.setattr(sys, "path", [str(folders[NAMES[0]])])
    assert bundles.root(".", "renamed") == str(folders[NAMES[0]])
    monkeypatch.setattr(sys, "path", [])
    assert bundles.root("nowhere", NAMES[0]) == "nowhere"


VERSIONS = ("version", "monai_version", "pytorch_version", "numpy_version")
TEXTS = ("task", "description", "authors", "copyright", "intended_use")
KINDS = {"image", "series", "tuples", "probabilities"}
FORMATS = {"magnitude", "hounsfield", "kspace", "raw", "labels", "classes", "segmentation"}


def test_metadata_keeps_to_the_specification(case: Case) -> None:
    """The keys and values of MONAI's ``docs/source/mb_specification.rst``; the schema itself is on the network."""
    metadata = json.loads((case.bundle / "configs/metadata.json").read_text())
    assert metadata["name"] == case.name
    for key in VERSIONS:
        assert re.match(r"\d+\.\d+(\.\d+)?", metadata[key]), key
    for key in TEXTS:
        assert isinstance(metadata[key], str), key
        assert metadata[key], key
    packages = metadata["required_packages_version"]
    assert packages
    assert all(isinstance(name, str) and re.match(r"\d+\.\d+", version) for name, version in packages.items())
    assert metadata["version"] in metadata["changelog"]
    for direction, name in (("inputs", "image"), ("outputs", "pred")):
        (found,) = metadata["network_data_format"][direction].items()
        assert found[0] == name
        tensor = found[1]
        assert tensor["type"] in KINDS
        assert tensor["format"] in FORMATS
        assert isinstance(tensor["modality"], str)
        assert tensor["num_channels"] == len(tensor["channel_def"])
        assert all(size == "*" for size in tensor["spatial_shape"])
        assert getattr(torch, tensor["dtype"]).is_floating_point
        assert len(tensor["value_range"]) in (0, 2)
        assert isinstance(tensor["is_patch_data"], bool)
        assert all(key.isdigit() and isinstance(text, str) for key, text in tensor["channel_def"].items())


def test_files_of_the_specification_are_there(case: Case) -> None:
    for name in ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md"):
        assert (case.bundle / name).is_file(), name
