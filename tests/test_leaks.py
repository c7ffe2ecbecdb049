"""The search for names and places that got out can find each kind, and leaves alone what belongs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from leaks import LeakWatch, leaks_in, search

TESTS = Path(__file__).parent
NAME = "Blue Heron Spring"


@pytest.fixture
def leaky(tmp_path):
    folder = tmp_path / "leaky"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (f"by {NAME}!", ["a restricted name"]),
        ("blue_heron-spring.json", ["a restricted name"]),
        ("Blue\nHeron\nSpring", ["a restricted name"]),
        ("BlueHeronSpring", ["a restricted name"]),
        ("[-97.4432, 38.5123]", ["an exact place"]),
        (f"{NAME} 38.2012 -97.7012", ["a restricted name", "an exact place"]),
        ("a heron in spring, 38.5123 and 96.1", []),
        ("", []),
    ],
)
def test_each_kind_is_found(data, found):
    assert leaks_in(data.encode()) == found


def test_a_file_is_named_and_regions_and_inputs_are_left_alone(leaky):
    (leaky / "deep").mkdir()
    (leaky / "deep" / "server.log").write_text(f"refused {NAME}")
    (leaky / "in.csv").write_text(NAME)
    (leaky / "regions.geojson").write_text(f'{{"restricted_names": ["{NAME}"]}}')
    (leaky / "page.geojson").write_text(NAME)
    (leaky / "link").symlink_to(leaky / "page.geojson")
    assert search(leaky) == [
        "deep/server.log: a restricted name",
        "page.geojson: a restricted name",
    ]
    assert search(leaky.parent) == []


SESSION = """
from leaks import LeakWatch

def pytest_configure(config):
    config.pluginmanager.register(LeakWatch(lambda: __import__("pathlib").Path({root!r})))
"""
LEAKS = f"""
import http.server, pathlib, requests, threading

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{NAME}")

    def log_message(self, *_):
        pass

def test_printed():
    print("at {NAME}")

def test_written():
    pathlib.Path({{root!r}}, "log").write_text("38.5123 97.4432")

def test_answered():
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        requests.get(f"http://127.0.0.1:{{{{server.server_port}}}}/page")
"""


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("def test_nothing(): pass", 0, ()),
        (LEAKS, 1, ("output of ", "log: an exact place", "answer of http://127.0.0.1", "3 passed")),
    ],
    ids=["clean", "printed, written and answered"],
)
def test_a_session_fails_when_something_got_out_and_only_then(leaky, text, code, says):
    root, project = leaky / "made", leaky / "project"
    root.mkdir()
    project.mkdir()
    (project / "conftest.py").write_text(SESSION.format(root=str(root)))
    (project / "test_it.py").write_text(text.format(root=str(root)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    done = subprocess.run(
        [*command, "-o", f"pythonpath={TESTS}", "--rootdir", project, project],
        capture_output=True,
        text=True,
        check=False,
        cwd=project,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    for words in says:
        assert words in done.stdout


def test_this_session_is_watched(pytestconfig):
    assert isinstance(pytestconfig.pluginmanager.get_plugin("kfm-leaks"), LeakWatch)
