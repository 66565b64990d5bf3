"""Where the network runs, and in which number format."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medidiff.config import ComputeOptions
from medidiff.diffusion.memory import WindowTooLarge
from medidiff.diffusion.network import Backbone
from medidiff.errors import UsageError, is_out_of_memory

_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """A resolved device and precision."""

    device: torch.device
    precision: str

    def __str__(self) -> str:
        return str(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        """Reduced precision inside, if this device was asked for it."""
        return torch.autocast(self.device.type, _FORMATS[self.precision], enabled=self.precision != "fp32")


def resolve(options: ComputeOptions) -> Device:
    """Choose the device; ``auto`` takes a GPU when there is one, with bf16 there and fp32 on the CPU.

    Raises:
        UsageError: if the device does not exist on this machine.
    """
    name = options.device
    if len(options.devices) > 1:
        raise UsageError(f"--device {name} names several devices; one pipeline runs on one of them.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"this machine has {count} CUDA devices" if count else "this machine has no CUDA device"
            raise UsageError(f"--device {options.device} cannot be used: {found}; choose --device cpu or auto.")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps cannot be used: this machine has no Apple GPU; choose --device cpu or auto.")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return Device(device, precision(options))


def precision(options: ComputeOptions) -> str:
    """The number format that is asked for; ``auto`` is bf16 on a GPU that has it, else fp32."""
    if options.precision != "auto":
        return options.precision
    on_gpu = options.device.startswith(("auto", "cuda")) and torch.cuda.is_available()
    return "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"


def on_device(network: Backbone, device: Device) -> Backbone:
    """The network ready for inference: evaluation mode, channels-last weights, no gradients."""
    network = network.to(device.device).eval().requires_grad_(False)
    layout = torch.channels_last_3d if network.spatial_dims == 3 else torch.channels_last
    return network.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def run(network: nn.Module, device: Device, windows: Tensor, parameters: Tensor) -> Tensor:
    """Evaluate windows on the device; float32 back on the device that ``windows`` came from.

    Raises:
        WindowTooLarge: they do not fit its memory.
    """
    try:
        with torch.inference_mode(), device.autocast():
            answer = network(windows.to(device.device, non_blocking=True), parameters.to(device.device))
        result: Tensor = answer.float().to(windows.device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise WindowTooLarge(max(windows.shape[2:])) from None
    return result
