"""What somebody says about a release whose model others made: units, their parents, the words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kfm_mlflow.authoring.spec import DEFAULT_LICENSE
from kfm_mlflow.authoring.training_run import placeless
from kfm_mlflow.errors import InputError
from kfm_mlflow.metadata.facts import RELEASE_VERSION_PATTERN, DatasetFact
from kfm_mlflow.release.manifest import check_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from kfm_mlflow.authoring.source import SourceState
    from kfm_mlflow.metadata.facts import AgentFact, Bbox, RunFact, TensorFact
    from kfm_mlflow.monitor.energy import EnergyReport

UNITS_FOLDER = "units"
INDEX_PATH = "units.json"
"""Lists every file of every unit by digest, and stands for the weights where one file must."""
_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_COMPOSED = (
    "MLmodel", "care.json", "model-card.json", "model_metadata.json", "model_summary.json",
    "python_env.yaml", "requirements.txt", "sbom.spdx.json", INDEX_PATH,
)  # fmt: skip
_COMPOSED_FOLDERS = ("provenance/", "stac/", f"{UNITS_FOLDER}/")


@dataclass(frozen=True)
class Parent:
    """A model or artifact that others made, and that a unit is made from.

    Attributes:
        name: Short name, for people.
        uri: Where it is or what it is called; an absolute path of this machine is refused.
        digest: ``sha256:<hex>`` of what was read.
        license: SPDX expression.
        selection: Which part, in words.
    """

    name: str
    uri: str
    digest: str
    license: str = "NOASSERTION"
    selection: str = ""

    def fact(self, folder: str) -> DatasetFact:
        """Return the value that the documents are built from.

        Args:
            folder: Folder of the release whose files are made from it.

        Raises:
            InputError: A field is wrong, or the URI is a path of this machine.
        """
        if placeless(self.uri) != self.uri:
            raise InputError(
                "is a path of this machine",
                where=f"uri of parent {self.name!r}",
                remedy="give the URI that the provider's manifest names",
            )
        return DatasetFact(
            name=self.name,
            uri=self.uri,
            sha256=self.digest,
            license=self.license,
            role="parent",
            selection=self.selection,
            folders=(folder,),
        )


@dataclass(frozen=True)
class ImportedUnit:
    """One part of a model, as others made it.

    Attributes:
        role: What it does; its files lie in ``units/<role>/``.
        directory: Its files, which are copied as they are.
        format: What its files are, as its ``unit.json`` says.
        parameter_count: Number of trained parameters; 0 when it has none or nobody counted.
        parents: What it is made from; at least one.
    """

    role: str
    directory: Path
    format: str
    parameter_count: int
    parents: tuple[Parent, ...]

    def __post_init__(self) -> None:
        """Refuse a unit that comes from nowhere, or cannot be named.

        Raises:
            InputError: Says why.
        """
        where = f"unit {self.role!r}"
        if not _ROLE.fullmatch(self.role):
            raise InputError("is no role", where=where, remedy="use lower-case letters, digits, -_")
        if not self.format:
            raise InputError("states no format", where=where)
        if self.parameter_count < 0:
            raise InputError("has fewer than no parameters", where=where)
        if not self.parents:
            raise InputError("names no parent", where=where, remedy="say what it is made from")

    @property
    def folder(self) -> str:
        """Its folder in the release, ending in ``/``."""
        return f"{UNITS_FOLDER}/{self.role}/"

    def files(self) -> dict[str, Path]:
        """Return path in the release -> file, sorted.

        Raises:
            InputError: There is none, or one is a link, no plain file, or has no plain name.
        """
        found: dict[str, Path] = {}
        for path in sorted(self.directory.rglob("*")):
            name = f"{self.folder}{path.relative_to(self.directory).as_posix()}"
            problem = check_path(name)
            if path.is_symlink():
                problem = "is a link"
            elif not path.is_dir() and not path.is_file():
                problem = "is no plain file"
            if problem:
                raise InputError(problem, where=name)
            if path.is_file():
                found[name] = path
        if not found:
            raise InputError("holds no files", where=f"unit {self.role!r}")
        return found


def parent_facts(units: Iterable[ImportedUnit]) -> tuple[DatasetFact, ...]:
    """Return every parent once, with the folders of all units that are made from it.

    Raises:
        InputError: A field of a parent is wrong.
    """
    found: dict[DatasetFact, tuple[str, ...]] = {}
    for unit in units:
        for parent in unit.parents:
            fact = replace(parent.fact(unit.folder), folders=())
            found[fact] = (*found.get(fact, ()), unit.folder)
    return tuple(replace(fact, folders=tuple(sorted(set(at)))) for fact, at in found.items())


@dataclass(frozen=True)
class ImportedSpec:
    """Everything that composing needs and cannot find out by itself.

    Attributes:
        units: The model; roles are unique.
        name: Registered model that it is meant for.
        version: Release version, ``v1.2.3``.
        family: Policy family.
        task: In MLM's vocabulary, for example ``generative``.
        loader_module: Installed module whose ``_load_pyfunc`` loads the release.
        inputs: What a request holds; element type ``string`` for text.
        outputs: What an answer holds.
        bbox: West, south, east, north in degrees where it is used.
        datasets: Parents (:func:`parent_facts`), and training and validation data, by digest.
        run: The run that fetched the units.
        agents: Who is responsible; one of them signs.
        metrics: What the makers claim; gates never read it. At least one.
        hyperparameters: Name -> JSON value.
        documents: Path, ending in ``.json`` -> JSON value.
        care: Parts of the CARE block that differ from :data:`DEFAULT_CARE`.
        energy: Energy and carbon of the run; None when nobody measured it.
        source: The checkout that was run; None when nothing is known of it.
    """

    units: tuple[ImportedUnit, ...]
    name: str
    version: str
    family: str
    task: str
    loader_module: str
    inputs: tuple[TensorFact, ...]
    outputs: tuple[TensorFact, ...]
    bbox: Bbox
    datasets: tuple[DatasetFact, ...]
    run: RunFact
    agents: tuple[AgentFact, ...]
    released_at: datetime
    metrics: Mapping[str, float]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    documents: Mapping[str, Any] = field(default_factory=dict)
    care: Mapping[str, Any] = field(default_factory=dict)
    energy: EnergyReport | None = None
    architecture: str = ""
    description: str = ""
    license: str = DEFAULT_LICENSE
    predecessor: str | None = None
    source: SourceState | None = None

    def __post_init__(self) -> None:
        """Refuse at once what composing would refuse after it has copied everything.

        Raises:
            InputError: Says what is wrong.
        """
        if not re.fullmatch(RELEASE_VERSION_PATTERN, self.version):
            raise InputError(
                f"{self.version!r} is no version", where="version", remedy="write v1.2.3"
            )
        roles = [unit.role for unit in self.units]
        if not roles or len(set(roles)) != len(roles):
            raise InputError("a release needs units of different roles", where="units")
        if not self.inputs or not self.outputs:
            raise InputError("say what goes in and what comes out", where="inputs, outputs")
        if not self.metrics:
            raise InputError(
                "nobody claims anything of this model",
                where="metrics",
                remedy="give the metrics of the provider's manifest",
            )
        for path, value in self.documents.items():
            problem = check_path(path)
            if not problem and (not path.endswith(".json") or value is None):
                problem = "is no JSON document"
            if not problem and (path in _COMPOSED or path.startswith(_COMPOSED_FOLDERS)):
                problem = "is written by composing"
            if problem:
                raise InputError(problem, where=f"documents: {path}")
