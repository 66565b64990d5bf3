"""medidiff as a MONAI inferer, so that MONAI Bundles, MONAI Label and MONAI Deploy run it unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer
from torch import Tensor

from medidiff import bundles
from medidiff.config import RestoreOptions
from medidiff.diffusion.device import Device, on_device
from medidiff.restore import Engine, restore
from medidiff.scans.volume import Volume


class RestorationInferer(Inferer):
    """Restores batches of images in their own units: tiles, sampler and stitching in one call.

    Args:
        bundle: folder of the bundle that the network belongs to.
        tile: largest window edge in voxels; ``None`` for whole volumes.
        **options: fields of ``medidiff.config.RestoreOptions``.
    """

    def __init__(self, bundle: str | Path = ".", tile: int | None = None, **options: Any) -> None:
        self._bundle = bundles.read(Path(bundle))
        self._tile = tile
        self._options = RestoreOptions(**options)

    def __call__(self, inputs: Tensor, network: Any, *_: Any, **__: Any) -> Tensor:
        """Restore ``inputs`` (B, 1, I, J, K), a MetaTensor or a tensor of 1 mm voxels; the same kind comes back."""
        device = Device(next(network.parameters()).device, "fp32")
        engine = Engine(on_device(network, device), device, int(self._bundle.settings["halo"]), self._tile, 1)
        affine = np.asarray(getattr(inputs, "affine", np.eye(4)), dtype=np.float64)
        affines = np.broadcast_to(affine, (len(inputs), 4, 4))  # one each in a collated batch
        modality = self._bundle.settings["modalities"][0]
        output = inputs.clone().float()
        for index, image in enumerate(inputs):
            volume = Volume(np.asarray(image[0].cpu(), dtype=np.float32), affines[index], modality)
            output[index, 0] = torch.from_numpy(restore(volume, engine, self._options).mean).to(output.device)
        return output
