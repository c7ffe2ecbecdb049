"""The bill of materials of a release: its files, its data and the packages it runs on, as SPDX 2.3.

Rules kept here:

1. A file is listed by SHA-1, which SPDX demands, and SHA-256, which we trust.
2. Files that come after the document (itself, the STAC item) are named as excluded from the
   package verification code; every other file of the release must be listed.
3. A licence that nobody stated is NOASSERTION.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import NAMESPACE, canonical_bytes, parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.metadata.facts import MODEL_SUFFIXES
from kfm_mlflow.metadata.packages import licensing, resolved_packages, spdx_expression
from kfm_mlflow.metadata.sentences import capped
from kfm_mlflow.metadata.stac import sorted_datasets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spdx_tools.spdx.model import Document, File, Package

    from kfm_mlflow.metadata.facts import DatasetFact, FileFact, PackageFact, ReleaseFact

__all__ = ["LATER_FILES", "build_sbom", "evaluate_sbom", "resolved_packages"]

LATER_FILES = ("sbom.spdx.json", "stac/model-item.json")
"""Files that are written after the bill of materials and so cannot be listed in it."""

_MODEL_ID = "SPDXRef-Model"
_TOOL = "kfm-mlflow"


def _license(text: str | None) -> Any:
    from spdx_tools.spdx.model import SpdxNoAssertion

    expression = spdx_expression(text)
    return licensing().parse(expression) if expression else SpdxNoAssertion()


def _file(number: int, fact: FileFact) -> File:
    from spdx_tools.spdx.model import Checksum, ChecksumAlgorithm, File, FileType, SpdxNoAssertion

    if fact.sha1 is None:
        raise InputError(
            "has no SHA-1, which SPDX demands", where=fact.path, remedy="use read_file_fact()"
        )
    return File(
        name=f"./{fact.path}",
        spdx_id=f"SPDXRef-File-{number}",
        checksums=[
            Checksum(ChecksumAlgorithm.SHA1, fact.sha1),
            Checksum(ChecksumAlgorithm.SHA256, fact.sha256.removeprefix("sha256:")),
        ],
        file_types=[FileType.BINARY if fact.path.endswith(MODEL_SUFFIXES) else FileType.TEXT],
        license_concluded=SpdxNoAssertion(),
        copyright_text=SpdxNoAssertion(),
    )


def _package(spdx_id: str, name: str, **fields: Any) -> Package:
    from spdx_tools.spdx.model import Package, SpdxNoAssertion

    chosen: dict[str, Any] = {
        "download_location": SpdxNoAssertion(),
        "files_analyzed": False,
        "license_concluded": SpdxNoAssertion(),
        "license_declared": SpdxNoAssertion(),
        "copyright_text": SpdxNoAssertion(),
        **fields,
    }
    return Package(spdx_id=spdx_id, name=name, **chosen)


def _model(release: ReleaseFact, files: Sequence[File], excluded: Iterable[str]) -> Package:
    from spdx_tools.spdx.model import PackagePurpose
    from spdx_tools.spdx.spdx_element_utils import calculate_package_verification_code

    code = calculate_package_verification_code(list(files))
    code.excluded_files = [f"./{path}" for path in sorted(excluded)]
    return _package(
        _MODEL_ID,
        release.model_name,
        version=release.release_version,
        files_analyzed=True,
        verification_code=code,
        license_declared=_license(release.license),
        primary_package_purpose=PackagePurpose.OTHER,
        description=release.description or None,
    )


def _dataset(number: int, fact: DatasetFact) -> Package:
    from spdx_tools.spdx.model import Checksum, ChecksumAlgorithm, PackagePurpose

    return _package(
        f"SPDXRef-Dataset-{number}",
        fact.name,
        checksums=[Checksum(ChecksumAlgorithm.SHA256, fact.sha256.removeprefix("sha256:"))],
        license_declared=_license(fact.license),
        primary_package_purpose=PackagePurpose.ARCHIVE,
        comment=f"{fact.role} data",
    )


def _dependency(fact: PackageFact) -> Package:
    from spdx_tools.spdx.model import (
        ExternalPackageRef,
        ExternalPackageRefCategory,
        PackagePurpose,
    )

    name = re.sub(r"[^A-Za-z0-9.-]+", "-", fact.name)
    purl = f"pkg:pypi/{fact.name}@{fact.version.replace('+', '%2B')}"
    manager = ExternalPackageRefCategory.PACKAGE_MANAGER
    return _package(
        f"SPDXRef-Package-{name}",
        fact.name,
        version=fact.version,
        license_declared=_license(fact.license),
        primary_package_purpose=PackagePurpose.LIBRARY,
        external_references=[ExternalPackageRef(manager, "purl", purl)],
    )


def _document(
    release: ReleaseFact,
    files: Sequence[FileFact],
    datasets: Sequence[DatasetFact],
    packages: Sequence[PackageFact],
    excluded: Sequence[str],
) -> Document:
    from spdx_tools.spdx.model import (
        Actor,
        ActorType,
        CreationInfo,
        Document,
        Relationship,
        RelationshipType,
    )

    facts = sorted((f for f in files if f.path not in excluded), key=lambda fact: fact.path)
    listed = [_file(number, fact) for number, fact in enumerate(facts)]
    data = [_dataset(number, fact) for number, fact in enumerate(sorted_datasets(datasets))]
    needed = [_dependency(fact) for fact in sorted(packages, key=lambda fact: fact.name)]
    content = hashlib.sha256("".join(f"{f.path}\0{f.sha256}\0" for f in facts).encode())
    created = release.released_at.replace(tzinfo=None, microsecond=0)
    key = f"{release.model_name}-{release.release_version}"
    place = re.sub(r"[^A-Za-z0-9._-]+", "-", key)
    info = CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id="SPDXRef-DOCUMENT",
        name=key,
        document_namespace=f"{NAMESPACE}spdx/{place}/{content.hexdigest()}",
        creators=[Actor(ActorType.TOOL, _TOOL)],
        created=created,
    )
    kinds = RelationshipType
    relations = [Relationship("SPDXRef-DOCUMENT", kinds.DESCRIBES, _MODEL_ID)]
    relations += [Relationship(_MODEL_ID, kinds.CONTAINS, file.spdx_id) for file in listed]
    relations += [Relationship(_MODEL_ID, kinds.DEPENDS_ON, each.spdx_id) for each in needed]
    relations += [Relationship(each.spdx_id, kinds.DATA_FILE_OF, _MODEL_ID) for each in data]
    return Document(
        info,
        packages=[_model(release, listed, excluded), *data, *needed],
        files=listed,
        relationships=relations,
    )


def build_sbom(
    release: ReleaseFact,
    files: Sequence[FileFact],
    datasets: Sequence[DatasetFact],
    packages: Sequence[PackageFact],
    *,
    excluded: Sequence[str] = LATER_FILES,
) -> bytes:
    """Build the SPDX 2.3 document of a release.

    Args:
        release: What the release says about itself.
        files: Every file that exists by now, each with its SHA-1.
        datasets: What was trained and validated on.
        packages: What it runs on; see :func:`resolved_packages`.
        excluded: Paths that are, or will be, in the release and are not listed; evaluation
            accepts only STAC items and the document itself.

    Returns:
        Canonical JSON. ``created`` is the time of the release in whole seconds.

    Raises:
        InputError: A file has no SHA-1, or the document would not be valid SPDX.
    """
    from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    document = _document(release, files, datasets, packages, excluded)
    messages = validate_full_spdx_document(document)
    if messages:
        raise InputError(f"not valid SPDX: {messages[0].validation_message}", where="sbom")
    return canonical_bytes(DocumentConverter().convert(document))


def _parse(data: bytes) -> Document:
    """Read an SPDX document.

    Raises:
        EvidenceError: It is not SPDX 2.3 JSON.
    """
    from spdx_tools.spdx.parser.error import SPDXParsingError
    from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser

    values = parse_json(data, where="sbom")
    licensing()
    try:
        return JsonLikeDictParser().parse(values)
    except SPDXParsingError as exc:
        raise EvidenceError(f"not SPDX ({exc.get_messages()[0]})", where="sbom") from exc
    except Exception as exc:  # the parser raises whatever a foreign value makes it stumble over
        raise EvidenceError(f"not SPDX ({type(exc).__name__})", where="sbom") from exc


def _later(path: str) -> bool:
    """Say whether a file is one that can only be written after the bill of materials."""
    return path.startswith("stac/") or path.endswith(".spdx.json")


def _file_sentences(document: Document, by_path: dict[str, FileFact]) -> list[str]:
    from spdx_tools.spdx.model import ChecksumAlgorithm

    found: list[str] = []
    listed: set[str] = set()
    for file in document.files:
        path = file.name.removeprefix("./")
        if path in listed:
            found.append(f"files: {path} is listed twice")
        listed.add(path)
        fact = by_path.get(path)
        if fact is None:
            found.append(f"files: {path} is not in the release")
            continue
        digests = {sum_.algorithm: sum_.value for sum_ in file.checksums}
        if digests.get(ChecksumAlgorithm.SHA256) != fact.sha256.removeprefix("sha256:"):
            found.append(f"files: SHA256 is not that of {path}")
        if fact.sha1 is not None and digests.get(ChecksumAlgorithm.SHA1) != fact.sha1:
            found.append(f"files: SHA1 is not that of {path}")
    codes = [package.verification_code for package in document.packages]
    excluded = {name.removeprefix("./") for code in codes if code for name in code.excluded_files}
    found += [f"files: {path} may not be left out" for path in sorted(excluded) if not _later(path)]
    unlisted = sorted(set(by_path) - listed - excluded)
    return found + [f"files: {path} is in the release and not listed" for path in unlisted]


def _code_sentences(document: Document) -> list[str]:
    from spdx_tools.spdx.model import ChecksumAlgorithm
    from spdx_tools.spdx.spdx_element_utils import calculate_package_verification_code

    models = [package for package in document.packages if package.verification_code]
    if len(models) != 1:
        return ["packages: exactly one must carry a package verification code"]
    unsummed = [
        file.name.removeprefix("./")
        for file in document.files
        if all(sum_.algorithm is not ChecksumAlgorithm.SHA1 for sum_ in file.checksums)
    ]
    if unsummed:
        # The vendor would open a file of that name, wherever this process stands.
        return [f"files: {path} has no SHA1" for path in unsummed]
    stated = models[0].verification_code.value
    if calculate_package_verification_code(document.files).value != stated:
        return ["packages: the verification code is not that of the listed files"]
    return []


def evaluate_sbom(data: bytes, files: Iterable[FileFact]) -> list[str]:
    """Return everything that is wrong with a bill of materials, as sentences.

    Args:
        data: The bytes of the SPDX document.
        files: The files of the release, from its manifest; those without SHA-1 are compared by
            SHA-256 alone.

    Returns:
        What SPDX validation, the verification code and the files of the release object to. Empty
        when there is nothing.
    """
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    try:
        document = _parse(data)
    except EvidenceError as exc:
        return [str(exc)]
    found = [message.validation_message for message in validate_full_spdx_document(document)]
    found += _code_sentences(document)
    found += _file_sentences(document, {fact.path: fact for fact in files})
    return capped(list(dict.fromkeys(found)))
