"""What is known of a version that nobody has frozen yet, where the council votes before that.

A version is frozen when it becomes Staging. Where its policy asks for votes on the way there, what
lies at its source is read for what is voted on; a vote names the release id, so it counts for
nothing as soon as other bytes lie there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kfm_mlflow.errors import InputError
from kfm_mlflow.policy.levels import Level

if TYPE_CHECKING:
    from kfm_mlflow.policy.models import Policy
    from kfm_mlflow.registry.admission import Admission, Snapshot


def voted_release(
    admission: Admission, snapshot: Snapshot, policy: Policy, *, where: str
) -> tuple[str, str]:
    """Return release id and release version of what a vote on a version is about.

    Args:
        admission: Reads the source of what is not frozen yet.
        snapshot: The version.
        policy: Its family's policy.
        where: What asks, for the error.

    Raises:
        InputError: It is not frozen, and nobody votes before that, or its source is no release.
    """
    if snapshot.release is not None:
        return snapshot.release.release_id, snapshot.release.release_version
    called = f"{snapshot.registered_name} v{snapshot.version}"
    if snapshot.level is not Level.CANDIDATE or "votes" not in policy.gate_names(Level.STAGING):
        raise InputError(f"{called} is not frozen yet", where=where, remedy="move it to Staging")
    found = admission.examine(snapshot, policy, lambda e: (e.release_id, e.release_version))
    if not all(found):
        raise InputError(
            f"the source of {called} holds no release that could be voted on",
            where=where,
            remedy="log it with kfm_mlflow.log_release or log_imported",
        )
    return found
