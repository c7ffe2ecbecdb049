"""Every way into the registry store, and who stands at it.

A public method of MLflow's store that has no row here is refused: a new MLflow release can not
open a door that nobody thought of.
"""

from __future__ import annotations

from enum import StrEnum


class Guard(StrEnum):
    """What happens at a door."""

    READ = "reads only"
    PLAIN = "changes nothing that is governed"
    MOVE = "a move between levels: gates, decision, ledger"
    PROTECT = "refused when it would change what is governed"


STORE_DOORS: dict[str, Guard] = {
    "get_registered_model": Guard.READ,
    "search_registered_models": Guard.READ,
    "get_latest_versions": Guard.READ,
    "get_model_version": Guard.READ,
    "get_model_version_by_alias": Guard.READ,
    "get_model_version_download_uri": Guard.READ,
    "search_model_versions": Guard.READ,
    "get_webhook": Guard.READ,
    "list_webhooks": Guard.READ,
    "list_webhooks_by_event": Guard.READ,
    "get_prompt": Guard.READ,
    "get_prompt_version": Guard.READ,
    "get_prompt_version_by_alias": Guard.READ,
    "search_prompts": Guard.READ,
    "search_prompt_versions": Guard.READ,
    "supports_workspaces": Guard.READ,
    "update_registered_model": Guard.PLAIN,
    "update_model_version": Guard.PLAIN,
    "create_webhook": Guard.PLAIN,
    "update_webhook": Guard.PLAIN,
    "delete_webhook": Guard.PLAIN,
    "test_webhook": Guard.PLAIN,
    # Prompts share the tables; these call the methods below, which tell prompts from models.
    "create_prompt": Guard.PLAIN,
    "create_prompt_version": Guard.PLAIN,
    "delete_prompt": Guard.PLAIN,
    "delete_prompt_version": Guard.PLAIN,
    "set_prompt_tag": Guard.PLAIN,
    "delete_prompt_tag": Guard.PLAIN,
    "set_prompt_version_tag": Guard.PLAIN,
    "delete_prompt_version_tag": Guard.PLAIN,
    "set_prompt_alias": Guard.PLAIN,
    "delete_prompt_alias": Guard.PLAIN,
    "link_prompt_version_to_model": Guard.PLAIN,
    "link_prompt_version_to_run": Guard.PLAIN,
    "link_prompts_to_trace": Guard.PLAIN,
    "create_registered_model": Guard.PROTECT,
    "rename_registered_model": Guard.PROTECT,
    "delete_registered_model": Guard.PROTECT,
    "create_model_version": Guard.PROTECT,
    "copy_model_version": Guard.PROTECT,
    "delete_model_version": Guard.PROTECT,
    "set_registered_model_tag": Guard.PROTECT,
    "delete_registered_model_tag": Guard.PROTECT,
    "set_model_version_tag": Guard.PROTECT,
    "delete_model_version_tag": Guard.PROTECT,
    "transition_model_version_stage": Guard.MOVE,
    "set_registered_model_alias": Guard.MOVE,
    "delete_registered_model_alias": Guard.MOVE,
}

TAG_PREFIX = "kfm."
"""Tags that only the registry itself may write."""


def is_ours(key: str) -> bool:
    """Return whether a tag key is reserved for the registry."""
    return key.lower().startswith(TAG_PREFIX)
