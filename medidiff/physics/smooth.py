"""Gaussian smoothing of (B, *spatial) tensors on the device where they live, mirrored at the border."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medidiff.physics.extend import extend

_REACH = 3.0  # standard deviations at which the kernel is cut


def gaussian(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Smooth along each spatial axis with its own standard deviation in voxels; axes with 0 or one voxel stay."""
    for axis, sigma in enumerate(sigmas, start=1):
        if sigma > 0 and image.shape[axis] > 1:
            reach = math.ceil(_REACH * sigma)
            offsets = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
            kernel = torch.exp(-0.5 * (offsets / sigma).square())
            kernel = kernel / kernel.sum()
            line = torch.movedim(image, axis, -1)
            shape = line.shape
            padded = extend(line.reshape(-1, 1, shape[-1]), [reach], [reach])
            line = torch.nn.functional.conv1d(padded, kernel[None, None]).reshape(shape)
            image = torch.movedim(line, -1, axis)
    return image.contiguous()
