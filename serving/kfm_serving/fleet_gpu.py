"""Whether a GPU that was lent to this process works, by asking the CUDA driver itself.

No framework is loaded for it: the driver's library is on every machine whose GPU can be used, and
a context with memory on the device is the least that any framework needs.
Source: CUDA Driver API, sections 6.2 (cuInit), 6.5, 6.8 (primary context) and 6.13 (memory).
"""

from __future__ import annotations

import ctypes
from typing import Any

from kfm_mlflow.errors import PlaneError

LIBRARY = "libcuda.so.1"
_TRIED_BYTES = 2**20


def check_gpu(library: str = LIBRARY) -> None:
    """Take a context and a megabyte on the first GPU that this process sees, and give them back.

    Args:
        library: The CUDA driver's library.

    Raises:
        PlaneError: There is no driver, no GPU that this process sees, or it takes neither.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as exc:
        raise _broken(f"the CUDA driver cannot be loaded ({exc})") from exc
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    _call(cuda, "cuInit", 0)
    _call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    _call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        _call(cuda, "cuCtxSetCurrent", context)
        _call(cuda, "cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(_TRIED_BYTES))
        _call(cuda, "cuMemFree_v2", memory)
    finally:
        _call(cuda, "cuDevicePrimaryCtxRelease_v2", device)


def _call(cuda: Any, name: str, *args: Any) -> None:
    try:
        status = getattr(cuda, name)(*args)
    except AttributeError as exc:
        raise _broken(f"the CUDA driver has no {name}") from exc
    if status != 0:
        raise _broken(f"{name} failed with CUDA error {status}")


def _broken(message: str) -> PlaneError:
    return PlaneError(
        f"the GPU that was lent does not work: {message}",
        where="GPU",
        remedy="repair the node's driver and devices, or start the agent without a GPU",
    )
