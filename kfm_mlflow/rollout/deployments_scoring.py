"""Scoring over HTTP for ``mlflow.deployments``: MLflow's own serialisation and answer.

No credentials go along, redirects are not followed, and nothing is asked twice: where inputs go is
what the caller, or the registry, said, and nowhere else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kfm_mlflow.errors import InputError
from kfm_mlflow.rollout.deployments_errors import told

if TYPE_CHECKING:
    from mlflow.deployments import PredictionsResponse
    from requests import Response

_TIMEOUT_S = 70.0
"""Above the 60 s that a router may wait for a release."""
_PROTOCOL = ("inputs", "instances", "dataframe_split", "dataframe_records")
_CODES = {
    400: "BAD_REQUEST",
    404: "ENDPOINT_NOT_FOUND",
    415: "BAD_REQUEST",
    451: "PERMISSION_DENIED",
    503: "TEMPORARILY_UNAVAILABLE",
}


def write_body(inputs: Any) -> str:
    """Write a request as MLflow does.

    Args:
        inputs: Data frame, array, list, input name -> array, or a body of MLflow's protocol as a
            dict or as text.

    Raises:
        InputError: There is nothing, or it is nothing that JSON can hold.
    """
    from mlflow.utils.proto_json_utils import NumpyEncoder, dump_input_data

    if inputs is None:
        raise InputError("there are none", where="inputs")
    try:
        if isinstance(inputs, dict):
            # MLflow's own dump_input_data fails on input name -> array (3.17).
            body = inputs if set(inputs) & set(_PROTOCOL) else {"inputs": inputs}
            return json.dumps(body, cls=NumpyEncoder)
        return str(dump_input_data(inputs))
    except (TypeError, ValueError) as exc:
        raise InputError(f"cannot be written as JSON ({exc})", where="inputs") from exc


def score(name: str, url: str, inputs: Any) -> PredictionsResponse:
    """Score inputs at a served model.

    Args:
        name: Registered model.
        url: Where it is served.
        inputs: As :func:`write_body` takes them.

    Returns:
        The answer, with the version that gave it under ``metadata``.

    Raises:
        MlflowException: Nobody answers there, or the answer is an error; its own sentence.
        InputError: The inputs cannot be sent.
    """
    import requests
    from mlflow.deployments import PredictionsResponse

    try:
        answer = requests.post(
            f"{url}/invocations",
            data=write_body(inputs).encode(),
            headers={"Content-Type": "application/json"},
            timeout=_TIMEOUT_S,
            allow_redirects=False,
        )
    except requests.RequestException as exc:
        sentence = f"{url}: nobody answers ({type(exc).__name__}); is `kfm rollout run {name}` up?"
        raise told(sentence, "TEMPORARILY_UNAVAILABLE") from exc
    if answer.status_code != requests.codes.ok:
        raise told(_sentence(url, answer), _CODES.get(answer.status_code, "INTERNAL_ERROR"))
    found = PredictionsResponse.from_json(answer.text)
    version = answer.headers.get("X-KFM-Version", "")
    generation = answer.headers.get("X-KFM-Generation", "")
    if version.isdigit() and generation.isdigit():
        found["metadata"] = {"version": int(version), "generation": int(generation)}
    return found


def _sentence(url: str, answer: Response) -> str:
    try:
        said = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        said = "this is no model of ours"
    return f"{url}: HTTP {answer.status_code}: {said}"
