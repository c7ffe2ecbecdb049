"""Who may download weights through the server: the policy's ``access.may_download_weights``.

Rules kept here:

1. It is asked on servers with logins, besides MLflow's permissions, and of administrators, too.
2. What the name of a file does not show to be metadata counts as weights.
3. A file is of every model that its place leads to: versions made from the run, the logged model
   or the frozen release that stand in the path or URI, and what the run's tags say it trains for.
   One model that restricts its weights is enough.
4. A run with checkpoints that does not say what it trains for is restricted by every policy that
   restricts anything, and so is a path that MLflow might read otherwise than it is written.

Listings, uploads and metadata are not asked about here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select

from kfm_mlflow.checkpoints.records import registered_name_of
from kfm_mlflow.registry import records, tables
from kfm_mlflow.registry.guard import names_frozen
from kfm_mlflow.registry.translate import answer_to, refuse
from kfm_mlflow.trust.model_key import model_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mlflow.exceptions import MlflowException
    from sqlalchemy.orm import Session

    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.store import KfmStore

NAME_TAG, MODEL_TAG, CHECKPOINTS_TAG = "kfm.registered_name", "kfm.model_id", "kfm.checkpoints"
"""Tags of a run: the registered model that it trains for, that model's own id, and that the run
keeps checkpoints."""
_READS = frozenset({"GET", "HEAD"})
_METADATA = re.compile(
    r"MLmodel|LICENSE|NOTICE|README"
    r"|[\w .()+@=,-]+\.(?:jsonl?|geojson|jsonld|md|txt|ya?ml|toml|csv|html|svg|png|ttl|provn|sig)",
    re.ASCII | re.IGNORECASE,
)
_PROXY = re.compile(r".*/mlflow-artifacts/(?:artifacts|presigned)/(?P<file>.+)", re.DOTALL)
_LOGGED = re.compile(r".*/logged-models/(?P<model_id>[^/]+)/artifacts/files")
_IDS = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{64}|m-[0-9a-f]{32}|[0-9a-f]{32})(?![0-9a-f])")
_ODD = re.compile(r"[%\\\x00-\x1f\x7f]")
"""What MLflow would decode or drop before it looks for a file."""
_RELEASE_LENGTH = 64
_MAX_SHOWN = 120


def holds_weights(file: str) -> bool:
    """Return whether a file is held to be weights: its name does not show that it is metadata.

    Args:
        file: Path as a client writes it; what is still encoded, or ends in nothing, is no
            metadata.
    """
    return _METADATA.fullmatch(file.rpartition("/")[2]) is None


@dataclass(frozen=True)
class Asked:
    """A download of weights: which file, and where a request says that it lies.

    Attributes:
        file: As the request writes it.
        runs: Run ids.
        logged: Ids of logged models.
        versions: Registered models and versions.
    """

    file: str
    runs: tuple[str, ...] = ()
    logged: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()


def weights_asked_for(
    method: str,
    path: str,
    query: Callable[[str], Sequence[str]],
    read_body: Callable[[], Any],
) -> Asked | None:
    """Return what weights a request asks for; None when it asks for none.

    Args:
        method: HTTP method.
        path: Path of the request, decoded once.
        query: Gives all values of a parameter.
        read_body: Gives the JSON body, as MLflow reads it.
    """
    if method not in _READS:
        if not path.endswith("/artifacts/presigned-download-url"):
            return None
        body = read_body()
        said = body if isinstance(body, dict) else {}
        # A field has two names in MLflow's JSON.
        runs = tuple(str(said[key]) for key in ("run_id", "runId") if key in said)
        return _asked((str(said.get("path", "")),), runs=runs)
    if match := _PROXY.fullmatch(path):
        return _asked((match["file"],))
    if match := _LOGGED.fullmatch(path):
        return _asked(query("artifact_file_path"), logged=(match["model_id"],))
    if path.endswith("/get-artifact"):
        return _asked(
            query("path"),
            runs=(*query("run_id"), *query("run_uuid")),
            versions=tuple(
                (name, version) for name in query("name") for version in query("version")
            ),
        )
    return None


def _asked(files: Sequence[str], **where: Any) -> Asked | None:
    weights = [file for file in files if holds_weights(file)]
    return Asked(weights[0], **where) if weights else None


def weights_refusal(store: KfmStore, user: str, asked: Asked) -> MlflowException | None:
    """Return what a user is refused weights with; None when they may have them.

    Whatever goes wrong on the way is a refusal.
    """
    try:
        return _refusal(store, user, asked)
    except Exception as exc:  # noqa: BLE001 - nothing is handed out that could not be asked about
        return answer_to(exc)


def _refusal(store: KfmStore, user: str, asked: Asked) -> MlflowException | None:
    for name, policy in _restricting(store, asked):
        rules = policy.access
        if set(rules.roles_of(user)) & set(rules.may_download_weights):
            continue
        whom = rules.weights_contact or f"who keeps the policy {policy.family}"
        file = "".join(c if c.isprintable() else "?" for c in asked.file)[-_MAX_SHOWN:]
        return refuse(
            f"KFM refused {file}: weights of {name} are restricted under CARE to the roles "
            f"{', '.join(rules.may_download_weights)}; ask {whom}"
        )
    return None


def _restricting(store: KfmStore, asked: Asked) -> Iterator[tuple[str, Policy]]:
    """Yield whose weights are asked for, and the policy, where one restricts them."""
    policies = store.admission.policies.policies
    if not any(policy.access.may_download_weights for policy in policies.values()):
        return
    names, tags = _owners(store, asked)
    families: dict[str, str] = {}
    with store.ManagedSessionMaker(read_only=True) as session:
        for name in names:
            family = records.family(session, name) or store.admission.policies.family_of(name)
            families.setdefault(family, name)
    for said in tags:
        if named := said.get(NAME_TAG) or registered_name_of(said.get(MODEL_TAG, "")):
            families.setdefault(store.admission.policies.family_of(named), named)
    # Whoever does not say of what it is, is of everything.
    if any(CHECKPOINTS_TAG in said and not {NAME_TAG, MODEL_TAG} & set(said) for said in tags):
        families |= dict.fromkeys(set(policies) - set(families), "a run with checkpoints")
    if _ODD.search(asked.file) or (names_frozen(asked.file) and not names):
        families |= dict.fromkeys(set(policies) - set(families), "what its path leads to")
    for family, name in sorted(families.items()):
        policy = store.admission.policy(family)
        if policy.access.may_download_weights:
            yield name, policy


def _owners(store: KfmStore, asked: Asked) -> tuple[list[str], list[Mapping[str, str]]]:
    """Return the keys of all models that a file is of, and the tags of its runs."""
    names = {store.key_of(name) for name, _ in asked.versions}
    places = [asked.file]
    for name, version in asked.versions:
        found = store.get_model_version(name, version)
        places += [str(found.source), str(found.run_id or "")]
        places.append(str(store.get_model_version_download_uri(name, version)))
    waiting = [*asked.runs, *asked.logged, *_named(places)]
    seen: set[str] = set()
    tags: list[Mapping[str, str]] = []
    while waiting:
        identifier = waiting.pop()
        if identifier not in seen and len(identifier) != _RELEASE_LENGTH:
            said, more = _of_tracking(identifier)
            tags.append(said)
            waiting += _named(more)
        seen.add(identifier)
    with store.ManagedSessionMaker(read_only=True) as session:
        names |= set(_models_of(session, seen))
    return sorted(names), tags


def _named(places: Iterable[str]) -> list[str]:
    """Return every release, run and logged model that stands in paths and URIs."""
    return [identifier for place in places for identifier in _IDS.findall(place)]


def _of_tracking(identifier: str) -> tuple[Mapping[str, str], list[str]]:
    """Return the tags of a run or logged model, and the places that it names; none of neither."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
    from mlflow.server.handlers import _get_tracking_store

    tracking = _get_tracking_store()
    try:
        if identifier.startswith("m-"):
            model = tracking.get_logged_model(identifier)
            return model.tags, [str(model.artifact_location), str(model.source_run_id or "")]
        run = tracking.get_run(identifier)
    except MlflowException as exc:
        if exc.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return {}, []
        raise
    return run.data.tags, [str(run.info.artifact_uri)]


def _models_of(session: Session, identifiers: set[str]) -> Iterator[str]:
    """Yield the keys of models with a version made from a run, logged model or frozen release."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    releases = {f"sha256:{each}" for each in identifiers if len(each) == _RELEASE_LENGTH}
    if releases:
        frozen = select(tables.release.c.model).where(tables.release.c.release_id.in_(releases))
        yield from session.execute(frozen).scalars()
    others = {each for each in identifiers if len(each) != _RELEASE_LENGTH}
    if not others:
        return
    rows = SqlModelVersion.__table__.c
    made = select(rows.workspace, rows.name).where(
        or_(
            rows.run_id.in_(others),
            *(rows.source.contains(each, autoescape=True) for each in others),
        )
    )
    for workspace, name in session.execute(made.distinct()):
        yield model_key(workspace, name)
