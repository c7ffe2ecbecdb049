"""A closed-loop HTTP/1.1 client in one thread: each connection sends again once it was answered.

Run as a program, so that its work is in no other program's way: a JSON order on standard input,
a JSON result on standard output. The same client drives every peer.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_CHUNK_BYTES = 2**18
_SILENCE_S = 30.0


@dataclass
class Connection:
    """One connection and the answer that is coming in on it."""

    socket: socket.socket
    sent_s: float = 0.0
    received: bytearray = field(default_factory=bytearray)


def _parse_answer(data: bytearray) -> tuple[int, dict[str, str]] | None:
    """Return status and headers once an answer is whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    if "content-length" in headers:
        is_whole = len(data) >= end + 4 + int(headers["content-length"])
    elif headers.get("transfer-encoding") == "chunked":
        is_whole = data.endswith(b"\r\n0\r\n\r\n")  # JSON never ends so
    else:
        raise RuntimeError(f"an answer of unknown length: {first}")
    if not is_whole:
        return None
    return int(first.split()[1]), headers


def _requests(order: dict[str, Any]) -> list[bytes]:
    """Return whole requests; the key, which only our router reads, differs in each."""
    made = []
    for k in range(order["key_count"]):
        body = order["bodies"][k % len(order["bodies"])].encode()
        head = (
            f"POST {order['path']} HTTP/1.1\r\nHost: 127.0.0.1:{order['port']}\r\n"
            f"Content-Type: application/json\r\nX-KFM-Key: {order['block']}/{k}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


def drive(order: dict[str, Any]) -> dict[str, Any]:
    """Send requests for a while.

    Args:
        order: ``port``, ``path``, ``bodies``, ``key_count``, ``block``, ``connections``,
            ``warm_up_s``, ``duration_s``.

    Returns:
        ``latencies_ms`` of answers after the warm-up, ``duration_s`` in which they came,
        ``statuses`` and ``versions`` as counts.
    """
    requests = _requests(order)
    statuses: Counter[int] = Counter()
    versions: Counter[str] = Counter()
    latencies_ms: list[float] = []
    number = 0
    with selectors.DefaultSelector() as selector:
        started_s = time.perf_counter()
        for _ in range(order["connections"]):
            made = socket.create_connection(("127.0.0.1", order["port"]), timeout=_SILENCE_S)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(made, time.perf_counter())
            made.sendall(requests[number % len(requests)])
            number += 1
            selector.register(made, selectors.EVENT_READ, connection)
        counts_from_s = started_s + order["warm_up_s"]
        ends_s = now_s = counts_from_s
        ends_s += order["duration_s"]
        while now_s < ends_s:
            ready = selector.select(timeout=_SILENCE_S)
            if not ready:
                raise RuntimeError(f"no answer in {_SILENCE_S:.0f} s")
            for chosen, _ in ready:
                connection = chosen.data
                data = connection.socket.recv(_CHUNK_BYTES)
                if not data:
                    raise RuntimeError("the server closed the connection")
                connection.received += data
                answer = _parse_answer(connection.received)
                if answer is None:
                    continue
                now_s = time.perf_counter()
                if counts_from_s <= now_s < ends_s:
                    latencies_ms.append((now_s - connection.sent_s) * 1e3)
                    statuses[answer[0]] += 1
                    versions[answer[1].get("x-kfm-version", "")] += 1
                connection.received.clear()
                connection.sent_s = time.perf_counter()
                connection.socket.sendall(requests[number % len(requests)])
                number += 1
        for chosen in list(selector.get_map().values()):
            chosen.data.socket.close()
    return {
        "latencies_ms": latencies_ms,
        "duration_s": order["duration_s"],
        "statuses": dict(statuses),
        "versions": dict(versions),
    }


if __name__ == "__main__":
    json.dump(drive(json.load(sys.stdin)), sys.stdout)
