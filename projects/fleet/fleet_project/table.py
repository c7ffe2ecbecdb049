"""A user's own tasks: a CSV file with task, specialty, decision and is_unsafe, checked row by row."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from fleet_project.tasks import Task
from kfm_mlflow.errors import DataError, InputError
from kfm_mlflow.fleet.heads import DECISIONS, SPECIALTIES
from kfm_mlflow.fleet.pipeline import check_task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COLUMNS = ("task", "specialty", "decision", "is_unsafe")
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_MAX_BYTES = 256 * 2**20


def read_tasks(path: Path) -> list[Task]:
    """Read a CSV file in UTF-8 whose first line names the columns; others are left out.

    Raises:
        DataError: It cannot be read, lacks a column, or a field is wrong; names the line.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"is larger than {_MAX_BYTES} bytes", where=path.name)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise DataError(
                    f"has no column {', '.join(missing)}",
                    where=path.name,
                    remedy=f"its first line names {', '.join(COLUMNS)}",
                )
            tasks = [_read_task(row, f"{path.name}: line {rows.line_num}") for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise DataError(f"cannot be read ({exc})", where=path.name) from exc
    _check_labels(tasks, path.name)
    return tasks


def _read_task(row: Mapping[str, str | None], where: str) -> Task:
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    try:
        check_task(values["task"])
    except InputError as exc:
        raise DataError(str(exc), where=where) from exc
    for name, known in (("specialty", SPECIALTIES), ("decision", DECISIONS)):
        if values[name] not in known:
            raise DataError(
                f"{values[name][:60]!r} is no {name}",
                where=f"{where}: {name}",
                remedy=f"use one of {', '.join(known)}",
            )
    flag = values["is_unsafe"].lower()
    if flag not in _FLAGS:
        raise DataError(f"{flag[:60]!r} is neither true nor false", where=f"{where}: is_unsafe")
    if _FLAGS[flag] and values["decision"] != "hold":
        raise DataError("is unsafe and not to be held", where=f"{where}: decision")
    return Task(values["task"], values["specialty"], values["decision"], _FLAGS[flag])


def _check_labels(tasks: list[Task], where: str) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for task in tasks:
        label = (task.specialty, task.decision)
        if seen.setdefault(task.task, label) != label:
            raise DataError(
                f"task {task.task[:60]!r} stands there with two answers",
                where=where,
                remedy="decide which is right",
            )
