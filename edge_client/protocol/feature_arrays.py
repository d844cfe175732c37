"""NumPy arrays and scalars as bytes: what they are stands in front of their numbers.

NumPy is no dependency of the plain install. Whoever hands us an array has imported it; who reads one needs it installed.
Only arrays of plain numbers, texts and instants are kept: no objects, which only pickle could carry, and no records.

A body is `length of the head | form | dimensions | dimension, 4 bytes each ... | dtype`, then the numbers in C order.
Whether the numbers are exact is in the form; what cannot be kept within the error of a lossy form is kept exactly.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from math import prod
from struct import Struct, pack, unpack_from
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from edge_client.errors import FeatureCorruptError, FeatureValueError
from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.features import VALUE_BYTES_MAX

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_EXACT, _SHUFFLED, _HALF, _SCALED = range(4)
_HALF_MAX: Final = 65_504.0
_DIMENSIONS_MAX: Final = 32
_DTYPES: Final = re.compile(
    r"[<>|](?:b1|[iu][1248]|f[248]|c8|c16|S[1-9]\d{0,6}|U[1-9]\d{0,6}|[mM]8(?:\[\d{0,9}[A-Za-z]{1,2}\])?)"
)
_SCALE: Final = Struct("<d")
_CODE_POINT_MAX: Final = 0x10FFFF


class _Layout(NamedTuple):
    form: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    body_bytes: int
    """Of what follows the head."""


def is_array(value: object) -> bool:
    """Whether this is an array or scalar of NumPy that may be kept; subclasses of arrays, which mean more, are not."""
    numpy = sys.modules.get("numpy")
    try:
        return numpy is not None and (type(value) is numpy.ndarray or isinstance(value, numpy.generic))
    except AttributeError:
        return False  # another thread is importing it just now, so nobody has an array


def array_bytes(value: Any, codec: FeatureCodec) -> bytes:
    """The body of an array or scalar. Raises `FeatureValueError` for what is not kept; scalars are always exact."""
    import numpy as np

    if isinstance(value, np.generic):
        array, codec = np.asarray(value), FeatureCodec.PLAIN
    else:
        array = value
    if codec is FeatureCodec.SHUFFLE and array.dtype.itemsize > 1 and array.size:
        head = _head(array.dtype, array.shape, _SHUFFLED)
        octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return head + octets.reshape(-1, array.dtype.itemsize).T.tobytes()
    if codec is FeatureCodec.FLOAT16 and array.dtype.kind == "f" and array.dtype.itemsize > 2:
        with np.errstate(all="ignore"):
            if _peak(array) <= _HALF_MAX:
                return _head(array.dtype, array.shape, _HALF) + array.astype("<f2").tobytes()
    if codec is FeatureCodec.INT8 and array.dtype.kind == "f":
        with np.errstate(all="ignore"):
            peak = _peak(array)
            scale = peak / 127
            if peak == 0 or sys.float_info.min <= scale <= _largest(array.dtype) / 128:
                steps = np.rint(array.astype(np.float64) / (scale or 1.0)).astype(np.int8)
                return _head(array.dtype, array.shape, _SCALED) + _SCALE.pack(scale) + steps.tobytes()
    return _head(array.dtype, array.shape, _EXACT) + array.tobytes()


def array_of(body: memoryview) -> NDArray[Any]:
    """The array of a body, its own and writable; of a scalar one without dimensions. Raises `FeatureCorruptError`."""
    try:
        import numpy as np
    except ImportError:
        raise FeatureCorruptError("this value is an array, and NumPy is not installed here") from None
    if not body or not 3 < (head_bytes := body[0]) <= len(body):
        raise FeatureCorruptError("an array's head is cut")
    form, dtype, shape, body_bytes = _layout(bytes(body[:head_bytes]))
    numbers = body[head_bytes:]
    if len(numbers) != body_bytes:
        raise FeatureCorruptError(f"an array's numbers are {len(numbers)} bytes in place of {body_bytes}")
    if form == _EXACT:
        array = np.frombuffer(numbers, dtype).copy() if body_bytes else np.empty(0, dtype)
    elif form == _SHUFFLED:
        array = np.frombuffer(numbers, np.uint8).reshape(dtype.itemsize, -1).T.copy().reshape(-1).view(dtype)
    else:
        with np.errstate(all="ignore"):
            array = _inexact(numbers, form=form, dtype=dtype)
    if dtype.kind == "U" and array.view(dtype.byteorder + "u4").max(initial=0) > _CODE_POINT_MAX:
        raise FeatureCorruptError("an array of text holds what is no text")
    return array.reshape(shape)


def _inexact(numbers: memoryview, *, form: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    import numpy as np

    if form == _HALF:
        return np.frombuffer(numbers, "<f2").astype(dtype)
    (scale,) = _SCALE.unpack(numbers[: _SCALE.size])
    if not 0 <= scale <= _largest(dtype) / 128:
        raise FeatureCorruptError("an array's scale makes no sense")
    return (np.frombuffer(numbers[_SCALE.size :], np.int8) * np.float64(scale)).astype(dtype)


def _peak(array: NDArray[Any]) -> float:
    """The largest magnitude; NaN, which no bound holds for, if there is one."""
    import numpy as np

    return float(np.maximum.reduce(abs(array), axis=None, initial=0.0))


@lru_cache(maxsize=32)
def _largest(dtype: np.dtype[Any]) -> float:
    import numpy as np

    return float(np.finfo(cast("np.dtype[np.floating[Any]]", dtype)).max)


@lru_cache(maxsize=256)
def _head(dtype: np.dtype[Any], shape: tuple[int, ...], form: int) -> bytes:
    if dtype.names is not None or _DTYPES.fullmatch(dtype.str) is None:
        raise FeatureValueError(f"arrays of {dtype} are not kept: numbers, texts and instants of fixed size are")
    if prod(shape) * dtype.itemsize > VALUE_BYTES_MAX:
        raise FeatureValueError(f"an array of {prod(shape) * dtype.itemsize} bytes; {VALUE_BYTES_MAX} may be kept")
    if len(shape) > _DIMENSIONS_MAX or max(shape, default=0) >= 1 << 32:
        raise FeatureValueError(f"an array of shape {shape} is not kept")
    rest = pack(f"<BB{len(shape)}I", form, len(shape), *shape) + dtype.str.encode()
    return bytes((len(rest) + 1,)) + rest


@lru_cache(maxsize=256)
def _layout(head: bytes) -> _Layout:
    """What a head says. Raises `FeatureCorruptError` for anything that `_head` does not write."""
    import numpy as np

    form, dimensions = head[1], head[2]
    name_at = 3 + 4 * dimensions
    name = head[name_at:].decode("ascii", "replace")
    if form > _SCALED or dimensions > _DIMENSIONS_MAX or _DTYPES.fullmatch(name) is None:
        raise FeatureCorruptError("an array's head makes no sense")
    try:
        dtype, shape = np.dtype(name), unpack_from(f"<{dimensions}I", head, 3)
    except (TypeError, ValueError) as error:
        raise FeatureCorruptError(f"an array's type is none: {error}") from None
    count = prod(shape)
    if count * dtype.itemsize > VALUE_BYTES_MAX or (form in {_HALF, _SCALED} and dtype.kind != "f"):
        raise FeatureCorruptError("an array's head makes no sense")
    body_bytes = {_HALF: 2 * count, _SCALED: _SCALE.size + count}.get(form, count * dtype.itemsize)
    if form == _SHUFFLED and not count:
        raise FeatureCorruptError("an array without numbers is never shuffled")
    return _Layout(form, dtype, shape, body_bytes)
