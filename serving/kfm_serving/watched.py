"""Which bins of its drift baseline a release's requests fall into; each distinct request once.

A client that asks for one place a thousand times says one thing. Requests are told apart by the
hash of their bytes, of which the last 65,536 are remembered by each process and nothing else is.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kfm_mlflow.monitor.drift_bins import DriftBins

_REMEMBERED_COUNT = 65_536


class Watched:
    """Places requests of one release; safe between threads."""

    def __init__(self, bins: DriftBins | None, remembered_count: int = _REMEMBERED_COUNT) -> None:
        """Begin with no request seen.

        Args:
            bins: Of the release; None places nothing.
            remembered_count: Requests after which the oldest is forgotten.
        """
        self._bins = bins
        self._remembered_count = remembered_count
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._lock = Lock()

    def place(
        self,
        body: bytes,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
    ) -> dict[str, int]:
        """Return column -> bin of a request; empty when it was seen before."""
        if self._bins is None or not self._is_new(body):
            return {}
        return self._bins.place(inputs, outputs)

    def _is_new(self, body: bytes) -> bool:
        key = hash(body)
        with self._lock:
            if key in self._seen:
                return False
            self._seen[key] = None
            if len(self._seen) > self._remembered_count:
                self._seen.popitem(last=False)
            return True
