"""numpy arrays on the wire: C order, little endian; type and shape are stated by the proto field's comment."""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import Refused

I32 = np.dtype("<i4")
U32 = np.dtype("<u4")
F32 = np.dtype("<f4")


def to_wire(values: npt.ArrayLike, dtype: np.dtype[Any]) -> bytes:
    """Return `values` as wire bytes of type `dtype`."""
    return np.ascontiguousarray(values, dtype=dtype).tobytes()


def from_wire(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], name: str, reason: str = "BAD_PLAN"
) -> npt.NDArray[Any]:
    """Return the read-only array that field `name` holds. One entry of `shape` may be -1.

    Raises Refused, with `reason`, when the bytes do not fill the shape.
    """
    try:
        return np.frombuffer(data, dtype=dtype).reshape(shape)
    except ValueError:
        raise Refused(reason, f"{name}: {len(data)} bytes do not fill shape {shape} of {dtype}") from None
