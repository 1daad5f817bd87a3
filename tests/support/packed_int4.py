"""Hub folders of int4 models as AutoAWQ, AutoGPTQ and compressed-tensors write them, and what their numbers mean."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
AWQ_DEAL = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ's order_map: which column goes to the word's first four bits, and so on


@dataclass(frozen=True)
class PackedFormat:
    """One way to store int4. `columns` is the group, None for a scale a row."""

    method: Literal["awq", "gptq", "gptq_v2", "compressed-tensors"]
    columns: int | None = 32
    symmetric: bool = False
    scale_dtype: torch.dtype = torch.float16

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says of it."""
        size = self.columns or -1
        match self.method:
            case "awq":
                return {
                    **{"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True, "version": "gemm"},
                    **{"modules_to_not_convert": None, "backend": "autoawq"},
                }
            case "compressed-tensors":
                weights = {
                    **{"num_bits": 4, "type": "int", "symmetric": self.symmetric, "dynamic": False},
                    **{"strategy": "group" if self.columns else "channel", "group_size": self.columns},
                    **{"actorder": None, "block_structure": None, "observer": "minmax", "observer_kwargs": {}},
                }
                group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
                return {
                    **{"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]},
                    **{"config_groups": {"group_0": group | {"output_activations": None}}, "kv_cache_scheme": None},
                    **{"quantization_status": "compressed", "version": "0.9"},
                }
        config = {"quant_method": "gptq", "bits": 4, "group_size": size, "desc_act": False, "sym": self.symmetric}
        return config | {"checkpoint_format": self.method, "damp_percent": 0.01}


def pack_folder(folder: Path, stored: PackedFormat, seed: int = 0) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Quantise the layers' matrices of the hub folder in place.

    Returns q uint8[N, K], and zero and scale of each element, float32[N, K], by the matrix' name.
    """
    tensors = load_file(folder / "model.safetensors")
    meanings = {}
    for name in [name for name in tensors if is_packed(name, tensors[name])]:
        q, z, s = _quantised(tensors.pop(name).float(), stored)
        columns = stored.columns or q.shape[1]
        group = torch.arange(q.shape[1]) // columns
        meanings[name] = (q, z[:, group].float(), s[:, group].float())
        tensors |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in _parts(q, z, s, stored).items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    edit_config(folder, quantization_config=stored.config)
    return meanings


def edit_config(folder: Path, **changes: Any) -> None:
    """Change keys of config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def is_packed(name: str, tensor: Tensor) -> bool:
    """Whether the packages quantise this tensor: the layers' matrices, routers excepted."""
    return ".layers." in name and tensor.dim() == 2 and not name.endswith("block_sparse_moe.gate.weight")


def words(numbers: Tensor) -> Tensor:
    """Return int32[R, ceil(C / 8)] of numbers uint8[R, C], the first in the lowest bits."""
    padded = torch.nn.functional.pad(numbers.long(), (0, -numbers.shape[1] % 8)).view(len(numbers), -1, 8)
    total = sum(padded[..., i] << 4 * i for i in range(8))
    assert isinstance(total, Tensor)
    return total.to(torch.int32)  # wraps around where the highest bit is set


def _quantised(w: Tensor, stored: PackedFormat) -> tuple[Tensor, Tensor, Tensor]:
    """Return q[N, K], z[N, G] and s[N, G]."""
    columns = stored.columns or w.shape[1]
    grouped = torch.nn.functional.pad(w, (0, -w.shape[1] % columns)).view(len(w), -1, columns)
    if stored.symmetric:
        s = (grouped.abs().amax(-1) / 7).to(stored.scale_dtype)
        z = torch.full(s.shape, 8)
    else:
        least, largest = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        s = ((largest - least) / 15).to(stored.scale_dtype)
        z = (-least / s.float()).round().clamp(0, 15).long()
    q = (grouped / s.float().unsqueeze(-1)).round() + z.unsqueeze(-1)
    return q.clamp(0, 15).to(torch.uint8).flatten(1)[:, : w.shape[1]], z, s


def _parts(q: Tensor, z: Tensor, s: Tensor, stored: PackedFormat) -> Tensors:
    if stored.method == "awq":
        deal = torch.tensor(AWQ_DEAL)
        parts = {"qweight": q.T, "qzeros": z.T}
        dealt = {name: words(part.reshape(len(part), -1, 8)[..., deal].flatten(1)) for name, part in parts.items()}
        return dealt | {"scales": s.T}
    if stored.method == "compressed-tensors":
        parts = {"weight_packed": words(q), "weight_scale": s, "weight_shape": torch.tensor(q.shape)}
        return parts if stored.symmetric else parts | {"weight_zero_point": words(z.T).T}
    columns = stored.columns or q.shape[1]
    zeros = z.T if stored.method == "gptq_v2" else (z.T - 1) % 16
    return {
        "qweight": words(q).T,
        "qzeros": words(zeros),
        "scales": s.T,
        "g_idx": (torch.arange(q.shape[1]) // columns).int(),
    }
