"""No restricted name and no exact place of the tests' regions in anything that the suite produces.

At the end of a session every file in pytest's temporary folder is searched (artefacts, exports,
databases, logs of servers and of controllers), and so are the output that passing tests printed and
every answer that a server gave to ``requests``. What is found fails the session.

A canary may stand where it belongs: in a regions file (``*.geojson`` with ``restricted_names``), in
an input that a test wrote (``in.*``), and in a folder called ``leaky``, where this is tested.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = ("Blue Heron Spring", "Quiet Heron Spring", "Standing Cottonwood", "Burial Ridge")
"""Restricted names of regions that tests make."""
PLACES = (("38.5123", "97.4432"), ("38.2012", "97.7012"), ("38.234567", "96.123457"))
"""Exact places in them; both numbers in one file are one place."""
_RARE = (b"eron", b"ottonwood", b"urial")  # what a plain search looks for first, being quick
_PLACES = tuple(tuple(part.encode() for part in place) for place in PLACES)
_PATTERN = re.compile(
    b"|".join(rb"[\W_]{0,3}".join(map(re.escape, name.encode().split())) for name in NAMES),
    re.IGNORECASE,
)
_NO_TEXT = (".pt", ".pth", ".onnx", ".so", ".pyc", ".png", ".woff2", ".gz", ".whl", ".zip")
_LARGEST_BYTES = 64 * 2**20


def leaks_in(data: bytes) -> list[str]:
    """Return which canaries bytes hold, as words that give none away."""
    found = []
    if any(rare in data for rare in _RARE) and _PATTERN.search(data):
        found.append("a restricted name")
    if any(all(part in data for part in place) for place in _PLACES):
        found.append("an exact place")
    return found


def _may_hold(path: Path, data: bytes) -> bool:
    is_regions = path.suffix == ".geojson" and b'"restricted_names"' in data
    return is_regions or path.stem == "in" or "leaky" in path.parts


def _files(root: str) -> Iterator[os.DirEntry[str]]:
    """Yield regular files below a folder; a link is searched where it leads."""
    folders = [root]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


def search(root: Path) -> list[str]:
    """Return every file below a folder that holds a canary where none belongs, with what it is."""
    found, seen = [], set()
    for entry in _files(str(root)):
        # What is made or made unreadable by a test may go while we look.
        with contextlib.suppress(OSError):
            is_text = not entry.name.endswith(_NO_TEXT)
            if is_text and entry.inode() not in seen and entry.stat().st_size <= _LARGEST_BYTES:
                seen.add(entry.inode())
                data = Path(entry.path).read_bytes()
                leaks, path = leaks_in(data), Path(entry.path).relative_to(root)
                if leaks and not _may_hold(path, data):
                    found.append(f"{path}: {', '.join(leaks)}")
    return sorted(found)


class LeakWatch:
    """A pytest plugin that fails a session in which a canary got out."""

    def __init__(self, root: Callable[[], Path | None]) -> None:
        """Watch a folder.

        Args:
            root: Returns the folder to search at the end; None when there is none.
        """
        self.found: list[str] = []
        self._root = root
        self._send: Any = None

    def pytest_sessionstart(self) -> None:
        """Read along what servers answer."""
        import requests

        self._send = original = requests.Session.send
        watch = self

        def send(session: Any, request: Any, **options: Any) -> Any:
            answer = original(session, request, **options)
            if not options.get("stream"):
                path = request.url.partition("?")[0]
                watch.found += [f"answer of {path}: {leak}" for leak in leaks_in(answer.content)]
            return answer

        requests.Session.send = send  # type: ignore[method-assign]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at what a passing test printed and logged; a failing one shows its source."""
        if report.passed:
            text = f"{report.capstdout}{report.capstderr}{report.caplog}"
            self.found += [f"output of {report.nodeid}: {leak}" for leak in leaks_in(text.encode())]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Search all files, and fail the session for what was found."""
        if self._send is not None:
            import requests

            requests.Session.send = self._send  # type: ignore[method-assign]
        root = self._root()
        if root is not None:
            self.found += search(root)
        if self.found and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where."""
        if self.found:
            terminalreporter.section("restricted names and places that got out", red=True)
            for leak in sorted(set(self.found)):
                terminalreporter.line(leak)


def watch(config: pytest.Config) -> None:
    """Register the plugin; called from ``pytest_configure``."""

    def root() -> Path | None:
        factory = getattr(config, "_tmp_path_factory", None)
        # Asked for it now, the factory would make a folder.
        return getattr(factory, "_basetemp", None)

    config.pluginmanager.register(LeakWatch(root), "kfm-leaks")
