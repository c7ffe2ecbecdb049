"""Driving a served model: clients, load without a pause, and the processes behind it."""

import contextlib
import http.client
import json
import threading
import time
from collections import Counter

import psutil
import pytest

BODY = json.dumps({"inputs": [[[[1.0, 2.0], [3.0, 4.0]]]]})


class Client:
    """One keep-alive connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def send(self, method, path, body=None, **headers):
        """Return status, headers and body of one request."""
        named = {"Content-Type": "application/json"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, named)
        response = self.connection.getresponse()
        return response.status, response.headers, response.read()

    def score(self, key=None, body=BODY, **headers):
        """Score one body under a key."""
        if key is not None:
            headers["X_KFM_Key"] = key
        return self.send("POST", "/invocations", body, **headers)


class Load:
    """Threads that score without a pause until the block ends; ``seen`` is what they got."""

    def __init__(self, port, thread_count=3):
        self.seen = Counter()
        self.lock, self.stop, self.sent = threading.Lock(), threading.Event(), 0
        self.progress = threading.Condition(self.lock)
        self.threads = [
            threading.Thread(target=self._run, args=(port, n)) for n in range(thread_count)
        ]

    def _run(self, port, number):
        client, k = Client(port), 0
        while not self.stop.is_set():
            k += 1
            try:
                status, headers, _ = client.score(f"{number}/{k}")
                found = (status, headers["X-KFM-Version"])
            except (OSError, http.client.HTTPException) as exc:
                found = (type(exc).__name__, None)
                client = Client(port)
            with self.progress:
                self.seen[found] += 1
                self.sent += 1
                self.progress.notify_all()
        client.connection.close()

    def await_more(self, count):
        """Wait until ``count`` more requests were answered."""
        with self.progress:
            goal = self.sent + count
            assert self.progress.wait_for(lambda: self.sent >= goal, timeout=30)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


def grown(before, after, version):
    """Return how many requests and errors of a version came between two observations."""
    a, b = before.arms[version], after.arms[version]
    return b.request_count - a.request_count, b.error_count - a.error_count


def processes(app):
    """Return the processes of an application's replicas, by the title Ray gives them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie counts as gone
            if " ".join(process.cmdline()).startswith(f"ray::ServeReplica:{app}:"):
                found.append(process)
    return found


def kill_one(app):
    found = processes(app)
    assert found
    found[0].kill()
    return found[0].pid


def eventually(check, timeout_s=20):
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if check():
            return
        threading.Event().wait(0.05)
    pytest.fail("it did not happen in time")
