"""Every builder gives the same bytes in every process, time zone, locale and hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from metadata import made_facts

from kfm_mlflow.canonical import canonical_bytes, digest_bytes
from kfm_mlflow.metadata.card import build_card
from kfm_mlflow.metadata.facts import PackageFact
from kfm_mlflow.metadata.prov import build_prov, prov_views
from kfm_mlflow.metadata.sbom import build_sbom
from kfm_mlflow.metadata.stac import build_item

TESTS = Path(__file__).parents[1]
PLACES = (
    {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "1", "TZ": "America/Chicago", "LC_ALL": "C.UTF-8"},
    {
        "PYTHONHASHSEED": "4242",
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "POSIX",
        "LANG": "tr_TR.UTF-8",
    },
)


def digests() -> list[str]:
    release, files = made_facts.make_release(), made_facts.make_files()
    data, run, agents = made_facts.make_datasets(), made_facts.make_run(), made_facts.make_agents()
    prov = canonical_bytes(build_prov(release, files, data, run, agents))
    views = prov_views(prov)
    built = [
        canonical_bytes(build_item(release, files, data, run)),
        prov,
        views["provn"].encode(),
        views["ttl"].encode(),
        canonical_bytes(build_card(release, files, data, run)),
        build_sbom(release, files, data, [PackageFact("b", "1", "MIT"), PackageFact("a", "2")]),
    ]
    return [digest_bytes(each) for each in built]


def test_builders_repeat_in_this_process():
    assert digests() == digests()


def test_builders_repeat_in_other_processes_whatever_their_surroundings():
    command = [sys.executable, "-c", "from metadata.test_determinism import *; print(*digests())"]
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for place in PLACES
    ]
    assert [child.communicate(timeout=120)[0].split() for child in running] == [digests()] * 3
