"""Makes a result again out of its sidecar, into another folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from medidiff.config import RunConfig, describe
from medidiff.errors import UsageError
from medidiff.runs import formats, settings, sidecar
from medidiff.runs.case import restore_case
from medidiff.runs.plan import PlannedCase
from medidiff.runs.reporter import Silent
from medidiff.scans.volume import ScanRef

if TYPE_CHECKING:
    from medidiff.bundles import Bundle


def rerun(
    tree: dict[str, Any], base: str, ref: ScanRef, mask: Path | None, bundle: Bundle, folder: Path, device: str | None
) -> dict[str, Any]:
    """Make a result again, with the same settings, UIDs and dates.

    Args:
        tree: its sidecar.
        base: the sidecar's name without extension, which is that of the result.
        ref: the input.
        mask: the file of the mask, if there was one.
        bundle: the pipeline.
        folder: where to write; empty.
        device: where to compute, if not as before.

    Returns:
        The sidecar of the new result.

    Raises:
        UsageError: the sidecar's settings are not those of a run.
        ScanError: the scan cannot be restored.
        PipelineError: the pipeline is damaged.
        OutOfMemory: the scan does not fit the memory.
        CannotWrite: the folder cannot be written.
    """
    from medidiff import pipelines

    config = settings_of(tree, ref, mask, bundle, folder, device)
    output = Path(str(tree[settings.CONFIG].get("output") or ".")).name
    names = formats.names_again(ref, config, base, output, folder)
    restorer = pipelines.load(bundle.path, config.task, compute=config.compute)
    labels = {key: str(tree["dicom"][key]) for key in ("uid_entropy", "datetime")} if "dicom" in tree else None
    seen = next((str(volume.get("modality") or "") for volume in tree.get("volumes") or ()), "")
    restore_case(PlannedCase(ref, names, modality=seen), config, restorer, Silent(), labels)
    return sidecar.load(names.sidecar) or {}


def settings_of(
    tree: dict[str, Any], ref: ScanRef, mask: Path | None, bundle: Bundle, folder: Path, device: str | None
) -> RunConfig:
    """The settings of a sidecar, for an input, a mask and a pipeline where they lie now.

    Raises:
        UsageError: they are not those of a run.
    """
    places = {"inputs": (ref.path,), "mask": mask, "pipeline": str(bundle.path), "output": folder}
    try:
        config = RunConfig.model_validate({**tree[settings.CONFIG], **places})
    except ValidationError as error:
        raise UsageError(f"The sidecar's settings are damaged: {describe(error)}.") from error
    changes: dict[str, Any] = {} if device is None else {"device": device}
    if "fp32" in sidecar.precisions(tree):  # a GPU would choose bf16 by itself
        changes["precision"] = "fp32"
    return config.model_copy(update={"compute": config.compute.model_copy(update=changes)})
