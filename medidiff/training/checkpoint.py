"""Training state on disk: safetensors and JSON, nothing pickled; files small enough to travel one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medidiff.training import pack

METADATA = Path("configs/metadata.json")
WEIGHTS, EMA, STATE = "weights.safetensors", "ema.safetensors", "state.json"


def _replace(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.part")
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
    temporary.replace(path)


def save(
    folder: Path, network: nn.Module, ema: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write weights (fp32), EMA weights (fp32), Adam moments (bf16, one file each) and the run's counters."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(network.state_dict(), folder / WEIGHTS)
    _replace(ema.state_dict(), folder / EMA)
    moments = optimiser.state_dict()["state"]
    for name in ("exp_avg", "exp_avg_sq"):
        _replace(
            {str(i): values[name].to(torch.bfloat16) for i, values in moments.items()}, folder / f"{name}.safetensors"
        )
    temporary = folder / f".{STATE}.part"
    temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / STATE)


def state_of(folder: Path) -> dict[str, Any] | None:
    """The counters that ``save`` wrote; ``None`` when the folder holds no checkpoint."""
    if not (folder / STATE).is_file():
        return None
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state


def restore(
    folder: Path, network: nn.Module, ema: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Load what ``save`` wrote; ``None`` when the folder holds no checkpoint."""
    state = state_of(folder)
    if state is None:
        return None
    network.load_state_dict(load_file(folder / WEIGHTS))
    ema.load_state_dict(load_file(folder / EMA))
    saved = optimiser.state_dict()
    first, second = load_file(folder / "exp_avg.safetensors"), load_file(folder / "exp_avg_sq.safetensors")
    saved["state"] = {
        int(i): {
            "step": torch.tensor(float(state["iteration"])),
            "exp_avg": first[i].float(),
            "exp_avg_sq": second[i].float(),
        }
        for i in first
    }
    optimiser.load_state_dict(saved)
    return state


def shipped(bundle: Path) -> Path:
    """The weights of a bundle's folder.

    Raises:
        ValueError: the folder is no bundle, or its weights are not those that it names.
    """
    try:
        told = json.loads((bundle / METADATA).read_text(encoding="utf-8"))["medidiff"]["weights"]
        weights = bundle / str(told["file"])
        found = pack.digest(weights)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{bundle} is not the folder of a bundle") from error
    if found != told["sha256"]:
        raise ValueError(f"{weights} is damaged: its SHA-256 differs")
    return weights


def export_fp16(ema: nn.Module, path: Path) -> None:
    """The EMA weights as fp16 safetensors: the file that a bundle ships."""
    _replace({key: value.to(torch.float16) for key, value in ema.state_dict().items()}, path)
