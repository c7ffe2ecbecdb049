"""A server whose policy trusts a key, a certificate and a Sigstore identity, and an export of each.

Made once per session. Its regions file holds a restricted name, far from where the model works.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from registry.server import Server, governed
from registry.world import COUNCIL, GOOD_CANARY, NAME, World, run_cli
from trust.made_pki import SUBJECT, Pki
from trust.made_sigstore import Instance

from kfm_mlflow.canonical import canonical_bytes, load_json
from kfm_mlflow.registry.export_index import index_statement
from kfm_mlflow.release.export import listing, sums_of
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.rollout.remote import RemoteRegistry
from kfm_mlflow.trust.keys import load_private_key
from kfm_mlflow.trust.signing import sign_release_with_certificate, sign_release_with_sigstore
from kfm_mlflow.trust.statement import sign_statement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORKFLOW = "https://ci.kfm.test/release@refs/tags/v1"
RESTRICTED = "Quiet Heron Spring"
REGION = [[[-150.1, 64.0], [-150.0, 64.0], [-150.0, 64.05], [-150.1, 64.05], [-150.1, 64.0]]]
VERSIONS = {"key": 1, "certificate": 2, "sigstore": 3}
"""Who signed -> version."""


@dataclass(frozen=True)
class Exports:
    """What was made.

    Attributes:
        world: Keys and the policy that the server runs with.
        server: It runs on.
        registry_key: Public half, as the operator has it.
        pki: Of the certificate.
        made: Who signed -> an export that no test may change.
    """

    world: World
    server: Server
    registry_key: Path
    pki: Pki
    made: dict[str, Path]


def _world(world: World, folder: Path, pki: Pki, instance: Instance) -> World:
    """Return the world with two more signers and regions of its own."""
    shutil.copytree(world.keys, folder / "keys")
    shutil.copytree(world.policies, folder / "policies")
    properties = {
        "id": "quiet-heron-spring-land",
        "name": "Land of Quiet Heron Spring",
        "authority": "Council of the valley",
        "consent": {"status": "granted"},
        "h3_max_resolution": 6,
        "restricted_names": [RESTRICTED],
    }
    other = {"id": "withheld", "consent": {"status": "withdrawn"}, "h3_max_resolution": 5}
    shift = [[[lon - 5, lat] for lon, lat in REGION[0]]]
    features = [
        {"type": "Feature", "properties": one, "geometry": {"type": "Polygon", "coordinates": area}}
        for one, area in ((properties, REGION), (other, shift))
    ]
    (folder / "regions.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": features, "salt": "0c5f"})
    )
    (folder / "sigstore.json").write_text(instance.trust_config())
    path = folder / "policies" / "climate.yaml"
    policy = yaml.safe_load(path.read_text())
    policy["regions_file"] = "../regions.geojson"
    policy["trust"]["certificate_signers"] = [
        {"name": "release-bot", "roots_file": str(pki.root.pem), "subject": SUBJECT}
    ]
    policy["trust"]["sigstore_signers"] = [
        {
            "name": "ci",
            "identity": WORKFLOW,
            "issuer": instance.url,
            "trust_config_file": "../sigstore.json",
        }
    ]
    path.write_text(yaml.safe_dump(policy))
    return World(folder, world.releases, world.documents)


def promote(remote: RemoteRegistry, world: World, version: int) -> None:
    """Take a candidate to Production, with everybody's vote."""
    remote.request_move(NAME, version, "staging")
    remote.request_move(NAME, version, "canary")
    remote.publish_verdict(NAME, version, GOOD_CANARY)
    now = datetime.now(UTC)
    for member in COUNCIL:
        remote.cast_vote(
            *(NAME, version, "production"),
            key=world.key(member),
            choice="approve",
            reason="looked at it",
            now=now,
            expires_at=now + timedelta(days=7),
        )
    remote.request_move(NAME, version, "production", reason="good")


@pytest.fixture(scope="session")
def exports(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exports]:
    """Return the server and its exports."""
    with exported(world, tmp_path_factory.mktemp("exports")) as found:
        yield found


@contextmanager
def exported(world: World, folder: Path) -> Iterator[Exports]:
    """Start a server, release three versions, export each of them; it runs until the block ends."""
    now = datetime.now(UTC)
    with Instance() as instance:
        (folder / "pki").mkdir()
        pki = Pki(folder / "pki", now)
        own = _world(world, folder / "world", pki, instance)
        bundles = [own.copy(folder / kind, index) for index, kind in enumerate(VERSIONS)]
        sign_release_with_certificate(
            bundles[1].release_dir,
            bundles[1].signature_path,
            pki.leaf.key_path,
            certificate_path=pki.leaf.pem,
            chain_paths=[pki.middle.pem],
            now=now,
        )
        sign_release_with_sigstore(
            bundles[2].release_dir,
            bundles[2].signature_path,
            own.root / "sigstore.json",
            token=instance.token(WORKFLOW),
            now=datetime.now(UTC),
        )
    # From here on, the Sigstore instance is gone: everything is checked offline.
    with governed(own, folder / "server") as server:
        for bundle in bundles:
            server.register(bundle)
        remote = RemoteRegistry(server.url, controller_key=own.key("controller"))
        promote(remote, own, 1)
        for version in (2, 3):
            remote.request_move(NAME, version, "staging")
        made = {}
        for kind, version in VERSIONS.items():
            made[kind] = folder / "made" / kind
            run_cli("export", f"models:/{NAME}/{version}", "-o", made[kind], "--server", server.url)
        yield Exports(own, server, server.data / "registry.pem.pub", pki, made)


def blocks(root: Path, kind: str) -> list[str]:
    """Return the blocks of one kind in the README of an export, in order."""
    return re.findall(rf"```{kind}\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)


def list_anew(root: Path, exports: Exports | None = None, **changed: Any) -> None:
    """Write index and list of digests anew, as a forger would.

    Args:
        root: An export whose files were changed.
        exports: Sign the list with the registry's own key, too, so that what is found is found by
            something else than that signature; None leaves the old one.
        changed: Fields of the index to lie about.
    """
    facts = {**load_json(root / "export.json"), **changed}
    readme = (root / "README.md").read_bytes()
    index = {**facts, **listing(build_manifest(root), facts["release_path"]), **changed}
    assert (root / "README.md").read_bytes() == readme
    (root / "export.json").write_bytes(canonical_bytes(index))
    (root / "SHA256SUMS").write_bytes(sums_of(index))
    if exports is not None:
        signer = load_private_key(exports.server.data / "registry.pem")
        statement = index_statement(index, datetime.now(UTC))
        (root / "export.intoto.json").write_bytes(sign_statement(statement, signer))
