"""What a manifest states about a quantised model. No torch in here."""

import math

from common.errors import CheckpointError
from common.manifest import Architecture, Quantization

DEFAULT_GROUP_SIZE = 32


def quantization_of(
    architecture: Architecture, mode: str, group_size: int, embedding: str, gptq: bool = False
) -> Quantization:
    """Return what a manifest states about a model of this shape in `mode`, int8 or int4.

    Attention output columns are cut between heads, so their groups must divide a head: the largest size that also
    divides `group_size`. Raises CheckpointError for a head of odd size, which int4 cannot cut.
    """
    method = "gptq" if gptq else "round-to-nearest"
    stated: dict[str, object] = {"mode": mode, "method": method, "embedding": embedding}
    if mode == "int4":
        head_group_size = math.gcd(group_size, architecture.head_dim)
        if head_group_size % 2:
            raise CheckpointError(f"int4 packs two columns into a byte, which heads of {architecture.head_dim} split")
        stated |= {"group_size": group_size, "head_group_size": head_group_size}
    return Quantization.model_validate(stated)
