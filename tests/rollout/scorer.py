"""What tests of ``mlflow.deployments`` share: a server that scores, and how a refusal looks."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from mlflow.exceptions import MlflowException


class refused:  # noqa: N801 - used as a function, like pytest.raises
    """Assert an MLflow error code and words of its sentence."""

    def __init__(self, code, *words):
        self._code, self._words = code, words

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        assert isinstance(error, MlflowException), error
        assert error.error_code == self._code, error
        for word in self._words:
            assert word in str(error)
        return True


class Scorer(BaseHTTPRequestHandler):
    """Answers as a router does: doubled inputs, or what it was told to answer."""

    def do_POST(self):
        """Note the request and answer it."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body, dict(self.headers)))
        status, answer = self.server.answer or (200, self._doubled(body))
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-KFM-Version", "2")
        self.send_header("X-KFM-Generation", "7")
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(answer)

    def _doubled(self, body):
        cells = body.get("inputs", body.get("dataframe_split", {}))
        if isinstance(cells, dict):
            cells = cells.get("data", cells.get("x"))
        return json.dumps({"predictions": {"y": (2 * np.array(cells, float)).tolist()}}).encode()

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def scoring():
    """Answer as a router does until the block ends; ``seen`` and ``answer`` are the test's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Scorer) as server:
        server.seen, server.answer = [], None
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()
