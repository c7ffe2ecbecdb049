"""Every way into the registry and its artifacts, and who stands at it.

A row names store methods and HTTP routes, what guards them, and with which reason codes they
refuse. The rows here lead to what is governed; ``route_doors.py`` has the rest of MLflow's routes.
What no row names is refused, a store method as well as a route: a new MLflow release can not open
a door that nobody thought of.

A route is written ``METHOD path``. One whose path starts with a version (``2.0/mlflow/…``) is
served twice, below ``/api/`` for clients and below ``/ajax-api/`` for MLflow's own pages; one that
starts with a slash is served there only. ``{name}`` is one segment of a path, ``{name:path}`` any
number.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Guard(StrEnum):
    """What happens at a door."""

    READ = "reads only"
    PLAIN = "changes nothing that is governed"
    FREEZE = "changes a source; what is governed is the frozen copy, which no path leads to"
    MOVE = "a move between levels: gates, decision, ledger"
    PROTECT = "refused when it would change what is governed"
    CLOSED = "refused always"


class Reason(StrEnum):
    """Why a door refuses; ``reason_code`` in the answer.

    What a move is refused for in detail are the codes of its findings, in the decision.
    """

    FINDINGS = "FINDINGS"
    STATE_MOVED = "STATE_MOVED"
    BAD_INPUT = "BAD_INPUT"
    RELEASE_KEPT = "RELEASE_KEPT"
    TAG_RESERVED = "TAG_RESERVED"
    KIND_FIXED = "KIND_FIXED"
    NOT_PERMITTED = "NOT_PERMITTED"
    FROZEN_AREA = "FROZEN_AREA"
    DOOR_CLOSED = "DOOR_CLOSED"
    DOOR_UNKNOWN = "DOOR_UNKNOWN"
    FAILED = "FAILED"

    @property
    def status(self) -> int:
        """HTTP status of a refusal for this reason; none that MLflow's client retries."""
        return {"BAD_INPUT": 400, "STATE_MOVED": 409}.get(self.value, 403)


@dataclass(frozen=True)
class Door:
    """One row of the table.

    Attributes:
        name: What somebody who comes this way does.
        guard: Who stands there.
        why: Why that is enough, in one sentence.
        methods: Public methods of MLflow's registry store.
        routes: HTTP routes, as the module describes.
        reasons: With which codes it refuses.
        reads_body: Whether a route's JSON body may name a place, and is searched for the frozen
            area.
        only_query: A parameter of a route's query, and the one value that it may have.
    """

    name: str
    guard: Guard
    why: str
    methods: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    reads_body: bool = False
    only_query: tuple[str, str] | None = None


_MOVES = (Reason.FINDINGS, Reason.STATE_MOVED, Reason.BAD_INPUT)

REGISTRY_DOORS: tuple[Door, ...] = (
    Door(
        "read the registry",
        Guard.READ,
        "answers, and writes nothing",
        methods=(
            "get_registered_model",
            "search_registered_models",
            "get_latest_versions",
            "get_model_version",
            "get_model_version_by_alias",
            "get_model_version_download_uri",
            "search_model_versions",
            "get_webhook",
            "list_webhooks",
            "list_webhooks_by_event",
            "get_prompt",
            "get_prompt_version",
            "get_prompt_version_by_alias",
            "search_prompts",
            "search_prompt_versions",
            "supports_workspaces",
        ),
        routes=("POST 2.0/mlflow/registered-models/get-latest-versions",),
    ),
    Door(
        "transition a version's stage",
        Guard.MOVE,
        "a stage is a name of a level; archiving others is part of the same move",
        methods=("transition_model_version_stage",),
        routes=("POST 2.0/mlflow/model-versions/transition-stage",),
        reasons=_MOVES,
    ),
    Door(
        "set an alias",
        Guard.MOVE,
        "staging, canary, production and champion name levels; other aliases are plain",
        methods=("set_registered_model_alias",),
        routes=("POST 2.0/mlflow/registered-models/alias",),
        reasons=_MOVES,
    ),
    Door(
        "delete an alias",
        Guard.MOVE,
        "without its level's alias a version goes down; Production goes by rollback only",
        methods=("delete_registered_model_alias",),
        routes=("DELETE 2.0/mlflow/registered-models/alias",),
        reasons=_MOVES,
    ),
    Door(
        "create a model",
        Guard.PROTECT,
        "its family is fixed here; kfm.* tags are the registry's own",
        methods=("create_registered_model",),
        routes=("POST 2.0/mlflow/registered-models/create",),
        reasons=(Reason.TAG_RESERVED, Reason.BAD_INPUT),
    ),
    Door(
        "create a version, copy or promote one",
        Guard.PROTECT,
        "whatever its source says, it is a candidate, and the gates judge its bytes when it moves",
        methods=("create_model_version", "copy_model_version"),
        routes=("POST 2.0/mlflow/model-versions/create",),
        reasons=(Reason.TAG_RESERVED, Reason.KIND_FIXED),
    ),
    Door(
        "rename a model",
        Guard.PROTECT,
        "a model that a version was ever released of keeps its name, and any model its family",
        methods=("rename_registered_model",),
        routes=("POST 2.0/mlflow/registered-models/rename",),
        reasons=(Reason.RELEASE_KEPT, Reason.BAD_INPUT),
    ),
    Door(
        "delete a model",
        Guard.PROTECT,
        "a model that a version was ever released of is kept",
        methods=("delete_registered_model",),
        routes=("DELETE 2.0/mlflow/registered-models/delete",),
        reasons=(Reason.RELEASE_KEPT,),
    ),
    Door(
        "delete a version",
        Guard.PROTECT,
        "a version that was ever released is kept",
        methods=("delete_model_version",),
        routes=("DELETE 2.0/mlflow/model-versions/delete",),
        reasons=(Reason.RELEASE_KEPT, Reason.BAD_INPUT),
    ),
    Door(
        "tag a model",
        Guard.PROTECT,
        "kfm.* is the registry's own, and what is a prompt is said when it is made",
        methods=("set_registered_model_tag", "delete_registered_model_tag"),
        routes=(
            "POST 2.0/mlflow/registered-models/set-tag",
            "DELETE 2.0/mlflow/registered-models/delete-tag",
        ),
        reasons=(Reason.TAG_RESERVED, Reason.KIND_FIXED),
    ),
    Door(
        "tag a version",
        Guard.PROTECT,
        "kfm.* is the registry's own, but kfm.rollout is an operator's order: pause, resume, abort "
        "or promote, for who may start rollouts; what is a prompt is said when it is made",
        methods=("set_model_version_tag", "delete_model_version_tag"),
        routes=(
            "POST 2.0/mlflow/model-versions/set-tag",
            "DELETE 2.0/mlflow/model-versions/delete-tag",
        ),
        reasons=(
            Reason.TAG_RESERVED,
            Reason.KIND_FIXED,
            Reason.NOT_PERMITTED,
            Reason.STATE_MOVED,
            Reason.BAD_INPUT,
        ),
    ),
    Door(
        "describe a model or a version",
        Guard.PLAIN,
        "a description is for people; no gate reads it",
        methods=("update_registered_model", "update_model_version"),
        routes=(
            "PATCH 2.0/mlflow/registered-models/update",
            "PATCH 2.0/mlflow/model-versions/update",
        ),
    ),
    Door(
        "work with prompts",
        Guard.PLAIN,
        "prompts are not governed; these call the methods above, which tell them from models",
        methods=(
            "create_prompt",
            "create_prompt_version",
            "delete_prompt",
            "delete_prompt_version",
            "set_prompt_tag",
            "delete_prompt_tag",
            "set_prompt_version_tag",
            "delete_prompt_version_tag",
            "set_prompt_alias",
            "delete_prompt_alias",
            "link_prompt_version_to_model",
            "link_prompt_version_to_run",
            "link_prompts_to_trace",
        ),
    ),
    Door(
        "manage webhooks",
        Guard.PLAIN,
        "a webhook tells; it decides nothing",
        methods=("create_webhook", "update_webhook", "delete_webhook", "test_webhook"),
        routes=(
            "POST 2.0/mlflow/webhooks",
            "PATCH 2.0/mlflow/webhooks/{webhook_id}",
            "DELETE 2.0/mlflow/webhooks/{webhook_id}",
            "POST 2.0/mlflow/webhooks/{webhook_id}/test",
        ),
    ),
)
"""The rows that lead to the registry's own tables."""

STORE_DOORS: dict[str, Guard] = {
    method: row.guard for row in REGISTRY_DOORS for method in row.methods
}
"""Guard of every store method that a row names; the store closes all others."""

TAG_PREFIX = "kfm."
"""Tags that only the registry itself may write."""


def is_ours(key: str) -> bool:
    """Return whether a tag key is reserved for the registry."""
    return key.lower().startswith(TAG_PREFIX)
