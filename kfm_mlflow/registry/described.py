"""What MLflow's own UI reads as a version's description: the block of ``description.py`` first.

Only a request of the UI (``/ajax-api``) for one version sees the block: clients read back what they
wrote, and the UI's lists show a description as plain text, in which Markdown would be noise. It
costs no evaluation, for a level follows from the stage and the aliases that MLflow has read anyway.
"""

from __future__ import annotations

from typing import Any

from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY

from kfm_mlflow.policy.levels import level_of
from kfm_mlflow.registry.description import with_block, without_block
from kfm_mlflow.registry.moves import MovingStore

_UI = "/ajax-api/"


def is_ui_request() -> bool:
    """Return whether this thread serves a request of MLflow's UI."""
    from flask import has_request_context, request

    return has_request_context() and _UI in request.path


class DescribedStore(MovingStore):
    """MLflow's store, whose versions say to the UI where they stand."""

    def _described(self, found: Any) -> Any:
        if is_ui_request() and found.tags.get(IS_PROMPT_TAG_KEY) != "true":
            level = level_of(found.current_stage, found.aliases)
            key, version = self.key_of(found.name), int(found.version)
            found.description = with_block(found.description, key, version, level)
        return found

    def get_model_version(self, name: str, version: int | str) -> Any:
        """Return a version; to the UI, with the block before its description."""
        return self._described(super().get_model_version(name, version))

    def update_model_version(self, name: str, version: int | str, description: Any = None) -> Any:
        """Change a version's description; the block that the UI sends back is not kept."""
        kept = without_block(description)
        return self._described(super().update_model_version(name, version, kept))
