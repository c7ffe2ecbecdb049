"""The ledger of a governed registry over HTTP, page by page. See :class:`RemoteRegistry`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError, StorageError
from kfm_mlflow.trust.keys import parse_public_key
from kfm_mlflow.trust.model_key import current_key, split_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kfm_mlflow.trust.keys import PublicKey


class RemoteLedger(ABC):
    """What a registry's API says of its ledger."""

    server: str

    @abstractmethod
    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        """Ask the server, and return what it answered as JSON values."""

    def ledger(self, name: str | None) -> list[dict[str, Any]]:
        """Return all ledger rows, oldest first; :meth:`ledger_rows` holds only one page of them."""
        return list(self.ledger_rows(name))

    def ledger_rows(self, name: str | None = None, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """Read ledger rows page by page, oldest first.

        Args:
            name: The model that they are about, as everywhere here; None for all.
            after: Number of the row to begin behind.

        Raises:
            StorageError: The server's pages do not go on, so that the reading would not end.
        """
        of_model: dict[str, str] = {}
        if name is not None:
            workspace, own = split_key(current_key(name, os.environ))
            of_model = {"model": own, **({"workspace": workspace} if workspace else {})}
        page: dict[str, Any] = {"next_after": after}
        while page["next_after"] is not None:
            begin = page["next_after"]
            asked = {"after": begin, **of_model}
            page = self._call("GET", "ledger", params=asked)
            if page["next_after"] is not None and page["next_after"] <= begin:
                raise StorageError("pages of the ledger do not go on", where=self.server)
            yield from page["rows"]

    def ledger_row(self, seq: int) -> dict[str, Any]:
        """Return one row of the ledger.

        Raises:
            InputError: There is no row of that number.
        """
        asked = {"after": seq - 1, "limit": 1}
        rows = self._call("GET", "ledger", params=asked)["rows"] if seq > 0 else []
        if not rows or rows[0]["seq"] != seq:
            raise InputError(f"the ledger has no row {seq}", where=self.server)
        found: dict[str, Any] = rows[0]
        return found

    def ledger_head(self) -> dict[str, Any]:
        """Return the ledger's head in JSON, signed by the registry."""
        found: dict[str, Any] = self._call("GET", "ledger/head")
        return found

    def registry_key(self) -> PublicKey:
        """Return the public key that the server says its registry signs with."""
        found = self._call("GET", "ledger/key")
        return parse_public_key(str(found["public_key"]), where=f"key of {self.server}")
