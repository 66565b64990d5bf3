"""medidiff as a MONAI inferer, so that MONAI Bundles, MONAI Label and MONAI Deploy run it unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import to_affine_nd
from monai.inferers.inferer import Inferer
from monai.utils.enums import MetaKeys, SpaceKeys
from numpy.typing import NDArray
from torch import Tensor

from medidiff import bundles
from medidiff.config import RestoreOptions, Task
from medidiff.diffusion.device import Device, on_device
from medidiff.errors import UsageError
from medidiff.restore import Restoration, restore
from medidiff.scans.volume import Volume


class RestorationInferer(Inferer):
    """Restores batches of images in their own units: tiles, sampler and stitching in one call.

    Args:
        bundle: folder of the bundle that the network belongs to.
        tile: largest window edge in voxels; ``None`` for whole volumes.
        task: ``denoise``, ``superres`` or ``inpaint``.
        **options: fields of ``medidiff.config.RestoreOptions``.

    Raises:
        UsageError: the options do not suit the task.
    """

    def __init__(
        self, bundle: str | Path = ".", tile: int | None = None, task: Task = "denoise", **options: Any
    ) -> None:
        self._bundle = bundles.read(Path(bundle))
        self._tile = tile
        self._task = task
        self._options = RestoreOptions(**options)
        if why := self._options.unsuited(task):
            raise UsageError(why)

    def __call__(self, inputs: Tensor, network: Any, mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """Restore images, each on its own grid; the same kind of tensor comes back.

        Args:
            inputs: (B, 1, I, J, K), or (B, 1, I, J) for planes: a MetaTensor, or a tensor of 1 mm voxels.
            network: the bundle's.
            mask: the same shape, not 0 where the image is to be filled; for ``inpaint`` and ``superres``.

        Raises:
            UsageError: the mask has another shape than the images.
        """
        if mask is not None and mask.shape != inputs.shape:
            raise UsageError(f"The mask has shape {tuple(mask.shape)}, the images have {tuple(inputs.shape)}.")
        device = Device(next(network.parameters()).device, "fp32")
        engine = self._bundle.engine(on_device(network, device), device, tile=self._tile)
        modality = self._bundle.settings["modalities"][0]
        affine = _in_ras(inputs, np.asarray(getattr(inputs, "affine", np.eye(4)), dtype=np.float64))
        affines = np.broadcast_to(affine, (len(inputs), *affine.shape[-2:]))  # one each in a collated batch
        made = []
        for index, image in enumerate(inputs):
            grid = np.asarray(to_affine_nd(3, affines[index]), dtype=np.float64)
            volume = Volume(_volume(image).astype(np.float32), grid, modality)
            hole = None if mask is None else _volume(mask[index]) != 0
            made.append(restore(volume, engine, self._options, self._task, hole=hole))
        means = torch.from_numpy(np.stack([each.mean for each in made]))[:, None].to(inputs.device)
        return _like(inputs, means.reshape(*means.shape[: inputs.ndim]), made, affine.ndim == 3)


def _in_ras(inputs: Tensor, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """An affine of the images from their own space to RAS+, or back; a MetaTensor may say that it is LPS+."""
    if not isinstance(inputs, MetaTensor) or inputs.meta.get(MetaKeys.SPACE) != SpaceKeys.LPS:
        return affine
    turn = np.ones(affine.shape[-1])
    turn[: min(2, len(turn) - 1)] = -1
    return turn[:, None] * affine


def _volume(image: Tensor) -> NDArray[Any]:
    """The array of an image (1, I, J, K) or (1, I, J), with three axes."""
    array = np.asarray(image[0].cpu())
    return array[:, :, None] if array.ndim == 2 else array


def _like(inputs: Tensor, means: Tensor, made: list[Restoration], batched: bool) -> Tensor:
    """The restored images with what a MetaTensor says of them."""
    if not isinstance(inputs, MetaTensor):
        return means
    output = MetaTensor(means)
    output.copy_meta_from(inputs)
    affines = torch.from_numpy(np.stack([_in_ras(inputs, each.affine) for each in made]))
    output.affine = affines if batched else affines[0]
    return output
