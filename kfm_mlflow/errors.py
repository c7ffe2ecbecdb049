"""The errors that kfm-mlflow raises.

::

    KfmError
    ├── InputError          something a person gave is wrong: says where and what to do
    │   ├── PolicyError     a policy file does not parse or contradicts itself
    │   └── DataError       a data set or region file lacks what is needed
    ├── IntegrityError      bytes are not the bytes that were recorded or signed
    │   ├── ManifestError   a release directory holds what no release may hold
    │   ├── SignatureError  a signature is missing, foreign or does not verify
    │   └── LedgerError     the hash chain of the ledger is broken
    ├── EvidenceError       a document of a release is missing, malformed or disagrees
    ├── RefusedError        a gate report did not pass; carries the report
    ├── ConflictError       the state moved between reading and writing
    ├── StorageError        the frozen area or an artifact store could not be used
    └── RolloutError        the traffic plane or the controller could not act
        └── PlaneError      a traffic plane failed or did not become ready in time

Every message says what, where, and what to do next. ``str(error)`` is one line.
Errors of vendors are translated once per vendor, with ``raise … from``.
"""

from __future__ import annotations


class KfmError(Exception):
    """Root of every error that this package raises on purpose.

    Attributes:
        where: The file, field, URI or model version at fault; empty when there is none.
        remedy: What to do next; empty when the message already says it.
    """

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        """Make an error whose text names the place and the remedy."""
        parts = [f"{where}: {message}" if where else message]
        if remedy:
            parts.append(remedy)
        super().__init__("; ".join(parts))
        self.where = where
        self.remedy = remedy


class InputError(KfmError):
    """Something that a person gave is wrong."""


class PolicyError(InputError):
    """A policy does not parse, contradicts itself, or is missing."""


class DataError(InputError):
    """A data set or region file lacks what is needed."""


class IntegrityError(KfmError):
    """Bytes are not the bytes that were recorded or signed."""


class ManifestError(IntegrityError):
    """A release directory holds something that no release may hold."""


class SignatureError(IntegrityError):
    """A signature is missing, foreign, expired or does not verify."""


class LedgerError(IntegrityError):
    """The hash chain of the ledger is broken."""


class EvidenceError(KfmError):
    """A document of a release is missing, malformed or disagrees with the bytes."""


class RefusedError(KfmError):
    """A move was refused by its gates.

    Attributes:
        report: The gate report that did not pass.
    """

    def __init__(self, message: str, *, report: object = None, where: str = "") -> None:
        """Make a refusal that carries the report it rests on."""
        super().__init__(message, where=where)
        self.report = report


class ConflictError(KfmError):
    """The state moved between reading and writing; read again and retry."""


class StorageError(KfmError):
    """The frozen area or an artifact store could not be used."""


class RolloutError(KfmError):
    """The traffic plane or the controller could not act."""


class PlaneError(RolloutError):
    """A traffic plane failed, or a release did not become ready in time."""
