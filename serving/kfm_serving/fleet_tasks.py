"""Tasks as clients send them, and what they are answered."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import canonical_bytes, parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.fleet.pipeline import check_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.fleet.pipeline import TaskAnswer
    from kfm_serving.fleet_attempt import Attempt
    from kfm_serving.fleet_choice import Target

MAX_TASKS = 64
"""In one request."""
MAX_ID_CHARS = 200
_FIELDS = ("task", "specialty", "id")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        task: The text.
        specialty: Whose agents do it; None leaves that to a coordinator.
        id: The client's own, or a random one.
    """

    task: str
    specialty: str | None
    id: str


def new_task_id() -> str:
    """Return an id for a task that came without one."""
    return uuid.uuid4().hex


def parse_tasks(
    body: bytes, specialties: tuple[str, ...], *, make_id: Callable[[], str] = new_task_id
) -> tuple[tuple[Task, ...], bool]:
    """Read the body of ``POST /tasks``.

    Args:
        body: A JSON object, or a list of them.
        specialties: What the fleet's agents are there for; empty when nobody knows yet.
        make_id: Makes an id.

    Returns:
        The tasks, and whether they came as a list.

    Raises:
        InputError: It is none; says which field, and what to send instead.
    """
    try:
        value = parse_json(body, where="body")
    except EvidenceError as exc:
        raise InputError(str(exc), remedy='send {"task": "…"}') from exc
    if not isinstance(value, list):
        return (_parse_task(value, "", specialties, make_id),), False
    if not 1 <= len(value) <= MAX_TASKS:
        raise InputError(f"has {len(value)} tasks", where="body", remedy=f"send 1 to {MAX_TASKS}")
    tasks = tuple(
        _parse_task(entry, f"[{k}]", specialties, make_id) for k, entry in enumerate(value)
    )
    return tasks, True


def _parse_task(
    value: Any, at: str, specialties: tuple[str, ...], make_id: Callable[[], str]
) -> Task:
    if not isinstance(value, dict):
        raise InputError("is no object", where=at or "body", remedy='send {"task": "…"}')
    dot = f"{at}." if at else ""
    unknown = sorted(set(value) - set(_FIELDS))
    if unknown:
        raise InputError(
            "is no field of a task",
            where=f"{dot}{unknown[0][:80]}",
            remedy=f"use {', '.join(_FIELDS)}",
        )
    text, specialty, task_id = (value.get(name) for name in _FIELDS)
    problem = _problem_of(text)
    if problem or not isinstance(text, str):
        raise InputError(problem, where=f"{dot}task", remedy="send the task as a text")
    is_known = isinstance(specialty, str) and (specialty in specialties or not specialties)
    if specialty is not None and not is_known:
        raise InputError(
            "is no specialty of this fleet",
            where=f"{dot}specialty",
            remedy=f"use one of {', '.join(specialties)}, or leave it out",
        )
    is_id = isinstance(task_id, str) and 0 < len(task_id) <= MAX_ID_CHARS and _is_unicode(task_id)
    if task_id is not None and not is_id:
        raise InputError(
            f"must be a text of 1 to {MAX_ID_CHARS} characters",
            where=f"{dot}id",
            remedy="send one, or leave it out",
        )
    return Task(text, specialty, make_id() if task_id is None else task_id)


def _problem_of(text: Any) -> str:
    """Return why something is no text of a task; empty when it is one."""
    try:
        check_task(text)
    except InputError as exc:
        return str(exc).removeprefix(f"{exc.where}: ")
    return "" if _is_unicode(text) else "holds half of a surrogate pair"


def _is_unicode(text: str) -> bool:
    """Tell whether a text can be written; JSON's escapes can spell some that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Done:
    """What a client is told of one task.

    Attributes:
        status: HTTP status.
        body: JSON.
        headers: Of the answer to a single task.
    """

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the body's canonical JSON."""
        return canonical_bytes(self.body)

    @classmethod
    def from_answer(cls, task: Task, target: Target, release_id: str, answer: TaskAnswer) -> Done:
        """Tell an answer; the text of a task that is held is not given out."""
        body = {
            "id": task.id,
            "specialty": target.specialty,
            "decision": answer.decision,
            "confidence": answer.confidence,
            "text": answer.text if answer.decision == "act" else "",
            "agent": target.agent,
            "version": target.version,
            "release_id": release_id,
        }
        headers = {
            "X-KFM-Agent": target.agent,
            "X-KFM-Version": str(target.version),
            "X-KFM-Release": release_id,
        }
        return cls(200, body, headers)


def unserved_task(task: Task, specialty: str | None) -> Done:
    """Tell that no agent may be asked."""
    whose = "agent" if specialty is None else f"agent of specialty {specialty}"
    return _error(503, "TEMPORARILY_UNAVAILABLE", f"no {whose} has a version; try again", task)


def failed_task(task: Task, specialty: str | None, last: Attempt) -> Done:
    """Tell that those who were asked failed.

    Args:
        task: The task.
        specialty: Whose agents were asked; None when no coordinator answered.
        last: The last attempt.
    """
    whose = "coordinator" if specialty is None else f"agent of specialty {specialty}"
    if last.outcome == "error":
        return _error(500, "INTERNAL_ERROR", f"every {whose} that was asked failed on it", task)
    return _error(503, "TEMPORARILY_UNAVAILABLE", f"no {whose} answered; try again", task)


def _error(status: int, error_code: str, message: str, task: Task) -> Done:
    return Done(status, {"error_code": error_code, "message": message, "id": task.id})
