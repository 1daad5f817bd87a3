"""The kernels compile for NVIDIA's and AMD's server GPUs, and read weights 16 bytes at a time. Needs Triton, no GPU."""

import os
import re
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from shard_worker.gpu.tiles import ProductKind, candidates

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets here"),
]
TARGETS = {"sm_90": ("cuda", 90, 32, "ptx", r"(ld\.global\S*v4|cp\.async\.cg)"),
           "gfx942": ("hip", "gfx942", 64, "amdgcn", r"load_dwordx4")}  # fmt: skip
POINTERS = {"x": "fp32", "norm": "fp32", "residual": "fp32", "out": "fp32", "scale": "fp32", "zero": "bf16"}
FORMATS = {"bf16": (torch.bfloat16, None), "i8": (torch.int8, None), "u8": (torch.uint8, 32)}


def assembly(kernel: Any, weight: str, constants: dict[str, Any], tile: Any, target: str) -> str:
    """Return what the compiler makes of a kernel whose sizes are multiples of 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    backend, architecture, warp_size, name, _ = TARGETS[target]
    pointers = {**POINTERS, "weight": weight, **({"scale": "bf16"} if weight == "u8" else {})}
    signature = {n: f"*{pointers[n]}" if n in pointers else "fp32" if n == "eps" else "i32" for n in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if n not in constants}
    aligned = {at: value for at, value in aligned.items() if kernel.arg_names[at[0]] != "eps"}
    values = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=values, attrs=aligned)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    made = compile_kernel(source, target=GPUTarget(backend, architecture, warp_size), options=options)
    text: str = made.asm[name]
    return text


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weight", FORMATS)
@pytest.mark.parametrize("block_m", [1, 16])
def test_products(target: str, weight: str, block_m: int) -> None:
    import triton.language as tl

    from shard_worker.gpu.kernels import matvec, skinny

    dtype, group_size = FORMATS[weight]
    tile = candidates(ProductKind(4096, 4096, dtype, group_size, True, block_m))[0]
    constants: dict[str, Any] = {"HAS_RESIDUAL": False, "GATED": True, "X_TYPE": tl.bfloat16}
    constants |= {"BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k}
    constants |= {"SCALED": weight == "i8"} if group_size is None else {"GROUP": group_size}
    constants |= {"HAS_NORM": True} if block_m == 1 else {"BLOCK_M": block_m}
    module, stem = (matvec, "matvec") if block_m == 1 else (skinny, "skinny")
    kernel = getattr(module, f"{stem}_{'wide' if group_size is None else 'int4'}")
    text = assembly(kernel, weight, constants, tile, target)
    assert re.search(TARGETS[target][4], text)
    if block_m > 1:
        assert re.search(r"mma\.sync|wgmma|v_mfma", text)
