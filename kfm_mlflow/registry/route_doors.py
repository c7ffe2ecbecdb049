"""MLflow's other HTTP routes that change something, and which row a request belongs to.

Reads by GET have no row; reads by POST have one, so that everything else that is sent can be
refused. Matching is pure: a method and a path in, a row out.
"""

from __future__ import annotations

import re

from kfm_mlflow.registry.doors import REGISTRY_DOORS, Door, Guard, Reason

ARTIFACT_DOORS: tuple[Door, ...] = (
    Door(
        "write or delete artifacts through the proxy",
        Guard.FREEZE,
        "the source of a release may change or go; paths into the frozen area are refused",
        routes=(
            "PUT 2.0/mlflow-artifacts/artifacts/{artifact_path:path}",
            "DELETE 2.0/mlflow-artifacts/artifacts/{artifact_path:path}",
        ),
        reasons=(Reason.FROZEN_AREA,),
    ),
    Door(
        "upload in parts, or by a presigned address",
        Guard.FREEZE,
        "no address below the frozen area is given out, whether path, query or body names it",
        routes=(
            "POST 2.0/mlflow-artifacts/mpu/create/{artifact_path:path}",
            "POST 2.0/mlflow-artifacts/mpu/complete/{artifact_path:path}",
            "POST 2.0/mlflow-artifacts/mpu/abort/{artifact_path:path}",
            "POST 2.0/mlflow/artifacts/presigned-upload-url",
        ),
        reasons=(Reason.FROZEN_AREA,),
        reads_body=True,
    ),
    Door(
        "upload an artifact to a run from the page",
        Guard.FREEZE,
        "MLflow keeps it below the run's own folder",
        routes=("POST /ajax-api/2.0/mlflow/upload-artifact",),
        reasons=(Reason.FROZEN_AREA,),
    ),
    Door(
        "say where an experiment keeps its artifacts",
        Guard.FREEZE,
        "no experiment lies in the frozen area, so no run and no logged model does",
        routes=("POST 2.0/mlflow/experiments/create",),
        reasons=(Reason.FROZEN_AREA,),
        reads_body=True,
    ),
    Door(
        "change a logged model",
        Guard.FREEZE,
        "a version that was released is read from its frozen copy, whatever becomes of this",
        routes=(
            "POST 2.0/mlflow/logged-models",
            "PATCH 2.0/mlflow/logged-models/{model_id}",
            "DELETE 2.0/mlflow/logged-models/{model_id}",
            "POST 2.0/mlflow/logged-models/{model_id}/params",
            "PATCH 2.0/mlflow/logged-models/{model_id}/tags",
            "DELETE 2.0/mlflow/logged-models/{model_id}/tags/{tag_key}",
        ),
        reasons=(Reason.FROZEN_AREA,),
    ),
    Door(
        "change, delete or restore a run or an experiment",
        Guard.FREEZE,
        "evidence is read from the signed release, never from a run",
        routes=(
            "POST 2.0/mlflow/experiments/update",
            "POST 2.0/mlflow/experiments/delete",
            "POST 2.0/mlflow/experiments/restore",
            "POST 2.0/mlflow/experiments/set-experiment-tag",
            "POST 2.0/mlflow/experiments/delete-experiment-tag",
            "POST 2.0/mlflow/runs/create",
            "POST 2.0/mlflow/runs/update",
            "POST 2.0/mlflow/runs/delete",
            "POST 2.0/mlflow/runs/restore",
            "POST 2.0/mlflow/runs/set-tag",
            "POST 2.0/mlflow/runs/delete-tag",
            "POST 2.0/mlflow/runs/log-batch",
            "POST 2.0/mlflow/runs/log-inputs",
            "POST 2.0/mlflow/runs/log-metric",
            "POST 2.0/mlflow/runs/log-model",
            "POST 2.0/mlflow/runs/log-parameter",
            "POST 2.0/mlflow/runs/outputs",
            "POST /ajax-api/2.0/mlflow/runs/create-promptlab-run",
        ),
        reasons=(Reason.FROZEN_AREA,),
    ),
)
"""The rows that lead to the bytes of a source."""

CLOSED_DOORS: tuple[Door, ...] = (
    Door(
        "talk to MLflow's assistant",
        Guard.CLOSED,
        "it runs shell commands on this server, beside the registry's key and database",
        routes=(
            "POST /ajax-api/3.0/mlflow/assistant/message",
            "PATCH /ajax-api/3.0/mlflow/assistant/sessions/{session_id}",
            "POST /ajax-api/3.0/mlflow/assistant/sessions/{session_id}/permission",
            "POST /ajax-api/3.0/mlflow/assistant/sessions/{session_id}/tool-result",
            "PUT /ajax-api/3.0/mlflow/assistant/config",
            "POST /ajax-api/3.0/mlflow/assistant/skills/install",
        ),
        reasons=(Reason.DOOR_CLOSED,),
    ),
    Door(
        "make or delete MLflow's demo",
        Guard.CLOSED,
        "it writes to the registry's tables around the governed store",
        routes=(
            "POST /ajax-api/3.0/mlflow/demo/generate",
            "POST /ajax-api/3.0/mlflow/demo/delete",
        ),
        reasons=(Reason.DOOR_CLOSED,),
    ),
)
"""The rows that nobody passes."""

WORKSPACE_DOORS: tuple[Door, ...] = (
    Door(
        "make or change a workspace",
        Guard.FREEZE,
        "no workspace keeps its artifacts in the frozen area",
        routes=(
            "POST 3.0/mlflow/workspaces",
            "PATCH 3.0/mlflow/workspaces/{workspace_name}",
        ),
        reasons=(Reason.FROZEN_AREA,),
        reads_body=True,
    ),
    Door(
        "delete a workspace",
        Guard.PROTECT,
        "only an empty one goes (mode RESTRICT, MLflow's default); other modes delete or move "
        "every model in it around the governed store",
        routes=("DELETE 3.0/mlflow/workspaces/{workspace_name}",),
        reasons=(Reason.DOOR_CLOSED,),
        only_query=("mode", "RESTRICT"),
    ),
)
"""The rows that lead to where models and bytes of a workspace lie."""

OTHER_DOORS: tuple[Door, ...] = (
    Door(
        "read by POST",
        Guard.READ,
        "answers, and writes nothing; MLflow's GraphQL has no mutation that writes",
        routes=(
            "POST /graphql",
            "POST 2.0/mlflow/artifacts/presigned-download-url",
            "POST 2.0/mlflow/experiments/search",
            "POST 2.0mlflow/experiments/search-datasets",
            "POST /ajax-api/2.0/mlflow/experiments/search-datasets",
            "POST 2.0/mlflow/logged-models/search",
            "POST 2.0/mlflow/runs/search",
            "POST 3.0/mlflow/datasets/search",
            "POST 3.0/mlflow/issues/search",
            "POST 3.0/mlflow/prompt-optimization/jobs/search",
            "POST 3.0/mlflow/traces/batchGetInfos",
            "POST 3.0/mlflow/traces/calculate-filter-correlation",
            "POST 3.0/mlflow/traces/metrics",
            "POST 3.0/mlflow/traces/search",
            "POST /ajax-api/3.0/jobs/search",
        ),
    ),
    Door(
        "record traces and assess them",
        Guard.PLAIN,
        "no gate reads a trace; an archived one is deleted by its own file name only",
        routes=(
            "POST /v1/traces",
            "POST 2.0/mlflow/traces",
            "PATCH 2.0/mlflow/traces/{request_id}",
            "PATCH 2.0/mlflow/traces/{request_id}/tags",
            "DELETE 2.0/mlflow/traces/{request_id}/tags",
            "POST 2.0/mlflow/traces/delete-traces",
            "POST 2.0/mlflow/traces/link-prompts",
            "POST 2.0/mlflow/traces/link-to-run",
            "POST 3.0/mlflow/traces",
            "PATCH 3.0/mlflow/traces/{trace_id}/tags",
            "DELETE 3.0/mlflow/traces/{trace_id}/tags",
            "POST 3.0/mlflow/traces/{trace_id}/assessments",
            "PATCH 3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}",
            "DELETE 3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}",
            "POST 3.0/mlflow/traces/delete-traces",
        ),
    ),
    Door(
        "keep evaluation data sets, issues, reviews and scorers",
        Guard.PLAIN,
        "they are kept in tables that no gate reads",
        routes=(
            "POST 3.0/mlflow/datasets/create",
            "DELETE 3.0/mlflow/datasets/{dataset_id}",
            "POST 3.0/mlflow/datasets/{dataset_id}/add-experiments",
            "POST 3.0/mlflow/datasets/{dataset_id}/remove-experiments",
            "POST 3.0/mlflow/datasets/{dataset_id}/records",
            "DELETE 3.0/mlflow/datasets/{dataset_id}/records",
            "PATCH 3.0/mlflow/datasets/{dataset_id}/tags",
            "DELETE 3.0/mlflow/datasets/{dataset_id}/tags/{key}",
            "POST 3.0/mlflow/issues",
            "PATCH 3.0/mlflow/issues/{issue_id}",
            "POST 3.0/mlflow/label-schemas/create",
            "PATCH 3.0/mlflow/label-schemas/update",
            "DELETE 3.0/mlflow/label-schemas/delete",
            "POST 3.0/mlflow/review-queues/create",
            "POST 3.0/mlflow/review-queues/update",
            "POST 3.0/mlflow/review-queues/delete",
            "POST 3.0/mlflow/review-queues/get-or-create-user",
            "POST 3.0/mlflow/review-queues/items/add",
            "POST 3.0/mlflow/review-queues/items/remove",
            "POST 3.0/mlflow/review-queues/items/set-status",
            "POST 3.0/mlflow/scorers/register",
            "DELETE 3.0/mlflow/scorers/delete",
            "PUT 3.0/mlflow/scorers/online-config",
        ),
    ),
    Door(
        "run one of MLflow's own jobs",
        Guard.PLAIN,
        "they write prompts and traces; code that somebody sent runs on no governed server",
        routes=(
            "POST /ajax-api/3.0/jobs/",
            "PATCH /ajax-api/3.0/jobs/cancel/{job_id}",
            "PATCH /ajax-api/3.0/mlflow/jobs/cancel/{job_id}",
            "POST /ajax-api/3.0/mlflow/genai/evaluate/invoke",
            "POST /ajax-api/3.0/mlflow/issues/invoke",
            "POST /ajax-api/3.0/mlflow/scorer/invoke",
            "POST 3.0/mlflow/prompt-optimization/jobs",
            "POST 3.0/mlflow/prompt-optimization/jobs/{job_id}/cancel",
            "DELETE 3.0/mlflow/prompt-optimization/jobs/{job_id}",
        ),
    ),
    Door(
        "ask a language model through the gateway",
        Guard.PLAIN,
        "the request goes to a provider, not to the registry",
        routes=(
            "POST /ajax-api/2.0/mlflow/gateway-proxy",
            "POST /gateway/{endpoint_name}/mlflow/invocations",
            "POST /gateway/mlflow/v1/chat/completions",
            "POST /gateway/openai/v1/chat/completions",
            "POST /gateway/openai/v1/embeddings",
            "POST /gateway/openai/v1/responses",
            "POST /gateway/openai/v1/responses/compact",
            "POST /gateway/typesafe/v1/systemone",
            "POST /gateway/anthropic/v1/messages",
            "POST /gateway/gemini/v1beta/models/{endpoint_name}:generateContent",
            "POST /gateway/gemini/v1beta/models/{endpoint_name}:streamGenerateContent",
            "POST /gateway/proxy/{endpoint_name}/{path:path}",
        ),
    ),
    Door(
        "configure the gateway",
        Guard.PLAIN,
        "endpoints, budgets and secrets of language models lie in tables that no gate reads",
        routes=(
            "POST 3.0/mlflow/gateway/budgets/create",
            "POST 3.0/mlflow/gateway/budgets/update",
            "DELETE 3.0/mlflow/gateway/budgets/delete",
            "POST 3.0/mlflow/gateway/endpoints/create",
            "POST 3.0/mlflow/gateway/endpoints/update",
            "DELETE 3.0/mlflow/gateway/endpoints/delete",
            "POST 3.0/mlflow/gateway/endpoints/bindings/create",
            "DELETE 3.0/mlflow/gateway/endpoints/bindings/delete",
            "POST 3.0/mlflow/gateway/endpoints/models/attach",
            "POST 3.0/mlflow/gateway/endpoints/models/detach",
            "POST 3.0/mlflow/gateway/endpoints/set-tag",
            "DELETE 3.0/mlflow/gateway/endpoints/delete-tag",
            "POST 3.0/mlflow/gateway/guardrails/create",
            "POST 3.0/mlflow/gateway/guardrails/add-to-endpoint",
            "PATCH 3.0/mlflow/gateway/guardrails/update-config",
            "DELETE 3.0/mlflow/gateway/guardrails/delete",
            "DELETE 3.0/mlflow/gateway/guardrails/remove-from-endpoint",
            "POST 3.0/mlflow/gateway/model-definitions/create",
            "POST 3.0/mlflow/gateway/model-definitions/update",
            "DELETE 3.0/mlflow/gateway/model-definitions/delete",
            "POST 3.0/mlflow/gateway/secrets/create",
            "POST 3.0/mlflow/gateway/secrets/update",
            "DELETE 3.0/mlflow/gateway/secrets/delete",
        ),
    ),
    Door(
        "register MCP servers",
        Guard.PLAIN,
        "they have versions and aliases of their own, in tables of their own",
        routes=(
            "POST 3.0/mlflow/mcp-servers",
            "PATCH 3.0/mlflow/mcp-servers/{name:path}",
            "DELETE 3.0/mlflow/mcp-servers/{name:path}",
            "POST 3.0/mlflow/mcp-servers/{name:path}/versions",
            "PATCH 3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}",
            "DELETE 3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}",
            "POST 3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}/tags",
            "DELETE 3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}/tags/{key:path}",
            "POST 3.0/mlflow/mcp-servers/{name:path}/endpoints",
            "PATCH 3.0/mlflow/mcp-servers/{name:path}/endpoints/{endpoint_id}",
            "DELETE 3.0/mlflow/mcp-servers/{name:path}/endpoints/{endpoint_id}",
            "POST 3.0/mlflow/mcp-servers/{name:path}/tags",
            "DELETE 3.0/mlflow/mcp-servers/{name:path}/tags/{key:path}",
            "POST 3.0/mlflow/mcp-servers/{name:path}/aliases",
            "DELETE 3.0/mlflow/mcp-servers/{name:path}/aliases/{alias:path}",
        ),
    ),
    Door(
        "tell MLflow how its page is used",
        Guard.PLAIN,
        "telemetry is none of ours",
        routes=("POST /ajax-api/3.0/mlflow/ui-telemetry",),
    ),
    Door(
        "manage users and their rights (kfm-auth)",
        Guard.PLAIN,
        "MLflow's basic-auth guards them; roles in governance come from the policy",
        routes=(
            "POST 2.0/mlflow/users/create",
            "POST /api/2.0/mlflow/users/create-ui",
            "PATCH 2.0/mlflow/users/update-password",
            "PATCH 2.0/mlflow/users/update-admin",
            "DELETE 2.0/mlflow/users/delete",
            "POST 3.0/mlflow/users/permissions/grant",
            "POST 3.0/mlflow/users/permissions/revoke",
            "POST 3.0/mlflow/roles/create",
            "PATCH 3.0/mlflow/roles/update",
            "DELETE 3.0/mlflow/roles/delete",
            "POST 3.0/mlflow/roles/assign",
            "DELETE 3.0/mlflow/roles/unassign",
            "POST 3.0/mlflow/roles/permissions/add",
            "PATCH 3.0/mlflow/roles/permissions/update",
            "DELETE 3.0/mlflow/roles/permissions/remove",
        ),
    ),
)
"""The rows that lead nowhere near what is governed."""

DOORS: tuple[Door, ...] = (
    *REGISTRY_DOORS,
    *ARTIFACT_DOORS,
    *WORKSPACE_DOORS,
    *CLOSED_DOORS,
    *OTHER_DOORS,
)
"""The whole table."""

_PLACEHOLDER = re.compile(r"\{\w+(:path)?\}")
PREFIXES = ("/api/", "/ajax-api/")


def served(route: str) -> tuple[tuple[str, str], ...]:
    """Return the method and path templates under which MLflow serves a row's route."""
    method, path = route.split(" ")
    if path.startswith("/"):
        return ((method, path),)
    return tuple((method, f"{prefix}{path}") for prefix in PREFIXES)


def _pattern(template: str) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(template)
    # `split` gives text, kind, text, …: a kind is ":path" or None.
    return re.compile(
        "".join(
            re.escape(part or "") if index % 2 == 0 else (".*" if part else "[^/]+")
            for index, part in enumerate(parts)
        ),
        re.DOTALL,
    )


_SERVED = [
    (method, template, row)
    for row in DOORS
    for route in row.routes
    for method, template in served(route)
]
_EXACT = {(method, path): row for method, path, row in _SERVED if "{" not in path}
_PATTERNS = [(method, _pattern(path), row) for method, path, row in _SERVED if "{" in path]


def door_of(method: str, path: str) -> Door | None:
    """Return the row that a request belongs to.

    Args:
        method: HTTP method.
        path: Path as the server's router sees it: decoded once, without a mount's prefix.

    Returns:
        The row, or None when no row names this door.
    """
    method = method.upper()
    exact = _EXACT.get((method, path))
    if exact is not None:
        return exact
    for verb, pattern, row in _PATTERNS:
        if verb == method and pattern.fullmatch(path):
            return row
    return None
