"""Reading policies: YAML files become values, or one error that names file, field and remedy.

A file may say ``extends: <family>`` to start from a packaged policy; mappings are merged, lists
and scalars replaced. What counts afterwards is the merged whole, whose digest is in every
decision. Keys and regions named by file are read here, so that the digest covers their content.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from kfm_mlflow.errors import PolicyError
from kfm_mlflow.policy.models import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_FAMILY = "baseline"


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key twice."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if key in found:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} appears twice", key_node.start_mark
            )
        found[key] = loader.construct_object(value_node, deep=True)  # type: ignore[no-untyped-call]
    return found


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader, made stricter
    except yaml.YAMLError as exc:
        raise PolicyError(f"not valid YAML: {' '.join(str(exc).split())}", where=where) from exc
    if not isinstance(value, dict):
        raise PolicyError("must be a mapping", where=where, remedy="see docs/policy.md")
    return value


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def packaged_families() -> tuple[str, ...]:
    """Return the families whose policies ship with the package."""
    folder = resources.files("kfm_mlflow.policy") / "defaults"
    return tuple(
        sorted(
            entry.name.removesuffix(".yaml")
            for entry in folder.iterdir()
            if entry.name.endswith(".yaml")
        )
    )


def _packaged_text(family: str, *, where: str) -> str:
    if family not in packaged_families():
        raise PolicyError(
            f"there is no packaged policy {family!r}",
            where=f"{where}: extends",
            remedy=f"use one of {', '.join(packaged_families())}",
        )
    folder = resources.files("kfm_mlflow.policy") / "defaults"
    return (folder / f"{family}.yaml").read_text(encoding="utf-8")


_FILE_FIELDS = {
    "signers": "public_key",
    "certificate_signers": "roots",
    "sigstore_signers": "trust_config",
    "validators": "public_key",
    "controllers": "public_key",
}
"""Which field of each duty's entries may be given as a file."""


def _entries(section: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(section, dict):
        return
    for duty, field in _FILE_FIELDS.items():
        yield from ((field, key) for key in section.get(duty) or () if isinstance(key, dict))
    council = section.get("council")
    if isinstance(council, dict):
        members = council.get("members") or ()
        yield from (("public_key", key) for key in members if isinstance(key, dict))


def _embed_keys(raw: dict[str, Any], folder: Path, *, where: str) -> None:
    for field, key in _entries(raw.get("trust")):
        name = key.get(f"{field}_file")
        if not isinstance(name, str) or key.get(field) is not None:
            continue
        try:
            key[field] = (folder / name).read_text(encoding="ascii")
        except (OSError, ValueError) as exc:
            what = "key file" if field == "public_key" else f"{field}_file"
            raise PolicyError(
                f"{what} {name!r} of {key.get('name')!r} cannot be read",
                where=f"{where}: trust",
                remedy="paths are relative to the policy file; `kfm keys new` makes keys",
            ) from exc
        del key[f"{field}_file"]


def _build(raw: dict[str, Any], *, where: str) -> Policy:
    try:
        return Policy.model_validate(raw)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "policy"
        more = f" (and {exc.error_count() - 1} more)" if exc.error_count() > 1 else ""
        raise PolicyError(
            f"{first['msg']}{more}",
            where=f"{where}: {field}",
            remedy="correct the field; `kfm policy show climate` prints a complete policy",
        ) from exc


def parse_policy(text: str, *, where: str, folder: Path) -> Policy:
    """Read a policy from YAML text.

    Args:
        text: YAML; ``extends`` names a packaged family to start from.
        where: What to call the text in errors.
        folder: Where relative key and region paths start.

    Raises:
        PolicyError: Not YAML, an unknown or missing field, an unreadable key; names the field.
    """
    raw = _parse_yaml(text, where=where)
    base = raw.pop("extends", None)
    if base is not None:
        raw = _merge(_parse_yaml(_packaged_text(str(base), where=where), where=str(base)), raw)
    _embed_keys(raw, folder, where=where)
    if raw.get("regions_digest") is not None:
        raise PolicyError("is found out, not written", where=f"{where}: regions_digest")
    policy = _build(raw, where=where)
    if policy.regions_file is None:
        return policy
    path = (folder / policy.regions_file).resolve()
    if not path.is_file():
        raise PolicyError(f"{policy.regions_file!r} does not exist", where=f"{where}: regions_file")
    return policy.with_regions(path)


def load_policy(path: Path) -> Policy:
    """Read one policy file; see :func:`parse_policy`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise PolicyError("cannot be read as UTF-8 text", where=str(path)) from exc
    return parse_policy(text, where=str(path), folder=path.parent)


@dataclass(frozen=True)
class PolicySet:
    """All policies of a registry, by family."""

    policies: Mapping[str, Policy]

    def policy(self, family: str) -> Policy:
        """Return a family's policy.

        Raises:
            PolicyError: There is none.
        """
        try:
            return self.policies[family]
        except KeyError:
            raise PolicyError(
                f"no policy for family {family!r}",
                where="family",
                remedy=f"known families: {', '.join(sorted(self.policies))}",
            ) from None

    def family_of(self, model_name: str, declared: str | None = None) -> str:
        """Return the one family that a registered model belongs to.

        Args:
            model_name: Registered model name, matched against the policies' patterns.
            declared: The family that its creator asked for, if any.

        Raises:
            PolicyError: Patterns of several families match, the declared family is unknown, or
                it contradicts the pattern.
        """
        matching = sorted(
            family
            for family, policy in self.policies.items()
            if any(fnmatchcase(model_name, pattern) for pattern in policy.models)
        )
        if len(matching) > 1:
            raise PolicyError(
                f"{model_name!r} matches the families {', '.join(matching)}",
                where="models",
                remedy="make the patterns disjoint",
            )
        if declared is not None:
            self.policy(declared)
            if matching and matching[0] != declared:
                raise PolicyError(
                    f"{model_name!r} belongs to family {matching[0]!r} by its name",
                    where=f"family {declared!r}",
                    remedy="choose another name or family",
                )
            return declared
        return matching[0] if matching else DEFAULT_FAMILY


def load_policies(folder: Path | None) -> PolicySet:
    """Read every ``*.yaml`` of a folder; packaged families fill what it does not define.

    Args:
        folder: The registry's policy folder; None takes the packaged policies alone, which trust
            no key and therefore admit nothing.

    Raises:
        PolicyError: A file is wrong, two files define one family, or the folder is missing.
    """
    found: dict[str, Policy] = {}
    if folder is not None:
        if not folder.is_dir():
            raise PolicyError("no such folder", where=str(folder), remedy="run `kfm policy init`")
        for path in sorted(folder.glob("*.yaml")):
            policy = load_policy(path)
            if policy.family in found:
                raise PolicyError(f"family {policy.family!r} is defined twice", where=str(path))
            found[policy.family] = policy
    for family in packaged_families():
        if family not in found:
            found[family] = parse_policy(
                _packaged_text(family, where=family), where=family, folder=Path.cwd()
            )
    return PolicySet(found)
