"""The peer on Ray Serve: one deployment, one session, JSON in and out, as in its documentation."""

from __future__ import annotations

from typing import Any


class BareOnnx:
    """Runs ``model.onnx`` with onnxruntime on one thread, as our own replica does."""

    def __init__(self, model_path: str) -> None:
        """Load the model."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model_path, sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._outputs = [node.name for node in self._session.get_outputs()]

    async def __call__(self, request: Any) -> dict[str, Any]:
        """Answer one HTTP request."""
        import numpy as np

        rows = np.asarray((await request.json())["inputs"], dtype=np.float32)
        answers = self._session.run(self._outputs, {self._input: rows})
        named = zip(self._outputs, answers, strict=True)
        return {"predictions": {name: answer.tolist() for name, answer in named}}


def start_bare(model_path: str, route_prefix: str) -> None:
    """Serve the model below a path of the running Serve; returns when it answers."""
    from ray import serve

    deployment = serve.deployment(
        BareOnnx, name="bare", max_ongoing_requests=32, ray_actor_options={"num_cpus": 0}
    )
    serve.run(deployment.bind(model_path), name="bare", route_prefix=route_prefix)
