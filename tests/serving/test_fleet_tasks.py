"""What clients send: read, or refused by field and remedy."""

import json

import pytest

from kfm_mlflow.errors import InputError
from kfm_mlflow.fleet.pipeline import MAX_TASK_CHARS
from kfm_serving.fleet_tasks import MAX_TASKS, Task, parse_tasks

KNOWN = ("doc_plan", "code_execute")


def read(value):
    return parse_tasks(json.dumps(value).encode(), KNOWN, make_id=lambda: "made")


def test_task_is_read_alone_or_in_a_list():
    plain = {"task": "plan a page"}
    full = {**plain, "specialty": "doc_plan", "id": "7"}
    assert read(plain) == ((Task("plan a page", None, "made"),), False)
    both = (Task("plan a page", None, "made"), Task("plan a page", "doc_plan", "7"))
    assert read([plain, full]) == (both, True)


@pytest.mark.parametrize(
    ("value", "field", "remedy"),
    [
        ("plan", "body", '{"task"'),
        ([], "body", f"1 to {MAX_TASKS}"),
        ([{"task": "x"}] * (MAX_TASKS + 1), "body", f"1 to {MAX_TASKS}"),
        ({}, "task", "text"),
        ({"task": 5}, "task", "text"),
        ({"task": " - "}, "task", "text"),
        ({"task": "x" * (MAX_TASK_CHARS + 1)}, "task", "text"),
        ({"task": "a \ud800"}, "task", "text"),
        ([{"task": "x"}, {"task": ""}], "[1].task", "text"),
        ([{"task": "x"}, 3], "[1]", '{"task"'),
        ({"task": "x", "specialty": "cooking"}, "specialty", "doc_plan, code_execute"),
        ({"task": "x", "specialty": ["doc_plan"]}, "specialty", "leave it out"),
        ({"task": "x", "id": ""}, "id", "leave it out"),
        ({"task": "x", "id": 4}, "id", "leave it out"),
        ({"task": "x", "id": "\udfff"}, "id", "leave it out"),
        ({"task": "x", "prompt": "y"}, "prompt", "task, specialty, id"),
    ],
)
def test_what_is_no_task_is_refused_with_its_field_and_what_to_send(value, field, remedy):
    with pytest.raises(InputError) as refused:
        read(value)
    assert refused.value.where == field
    assert remedy in refused.value.remedy


@pytest.mark.parametrize("body", [b"", b"{", b'{"task": "x", "task": "y"}', b"\xff"])
def test_what_is_no_json_is_refused(body):
    with pytest.raises(InputError, match="body"):
        parse_tasks(body, KNOWN)


def test_any_specialty_is_let_through_while_nobody_knows_the_fleet():
    (task,), _ = parse_tasks(b'{"task": "x", "specialty": "cooking"}', ())
    assert task.specialty == "cooking"
