"""One governed server with something at every level, and one real browser, for this folder's tests.

The browser is Debian's Chromium, driven by Playwright; where it is missing it is installed, and
where it can not be, the tests fail and say so: a browser test that is skipped tests nothing.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import debian
import pytest
from registry.server import Server, governed
from registry.world import COUNCIL, GOOD_CANARY, NAME, World, make_world

from kfm_mlflow.rollout.remote import RemoteRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext


def _chromium() -> str:
    if not shutil.which("chromium"):
        debian.install("chromium")
    found = shutil.which("chromium")
    if not found:
        pytest.fail("apt-get installed chromium, but there is no such command")
    return found


@dataclass(frozen=True)
class Site:
    """A server whose model has v1 at Production, v2 a canary with one vote, and two candidates.

    Attributes:
        good: Version of a candidate that may go to Staging.
        bad: Version of a candidate whose CARE record was taken out.
    """

    server: Server
    good: int
    bad: int

    @property
    def url(self) -> str:
        """Where it is served."""
        return self.server.url


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    world = make_world(tmp_path_factory.getbasetemp() / "world")
    with governed(world, tmp_path_factory.mktemp("site") / "server") as server:
        yield _filled(server, world)


def _filled(server: Server, world: World) -> Site:
    folder = server.data.parent
    remote = RemoteRegistry(
        server.url, controller_key=world.key("controller"), cache_dir=folder / "cache"
    )
    first, second = (server.register(bundle) for bundle in world.releases[:2])
    for version, members in ((first, COUNCIL[1:]), (second, COUNCIL[:1])):
        for level in ("staging", "canary"):
            remote.request_move(NAME, version, level)
        if version == first:
            remote.publish_verdict(NAME, version, GOOD_CANARY)
        now = datetime.now(UTC)
        for member in members:
            remote.cast_vote(
                NAME,
                version,
                "production",
                key=world.key(member),
                choice="approve",
                reason="measured",
                now=now,
                expires_at=now + timedelta(days=1),
            )
        if version == first:
            remote.request_move(NAME, version, "production")
    good = server.register(world.releases[2])
    broken = world.copy(folder / "broken", 2)
    (broken.release_dir / "care.json").write_text("{}")
    return Site(server, good, server.register(broken))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        yield launched
        launched.close()


@dataclass
class Visit:
    """A browser window, and what it asked for while it was open."""

    context: BrowserContext
    requested: list[str]
    complained: list[str]


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Visit]:
    """Return a window; at its end, nothing may have been asked of another host."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    made = Visit(context, [], [])
    context.on("request", lambda request: made.requested.append(request.url))
    context.on("console", lambda message: made.complained.append(message.text))
    yield made
    context.close()
    foreign = [
        url for url in made.requested if not url.startswith((f"{site.url}/", "data:", "blob:"))
    ]
    assert made.requested
    assert not foreign
