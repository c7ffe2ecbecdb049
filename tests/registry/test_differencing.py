"""A second release whose tables, subtracted from those at Production, isolate too few is refused."""

from __future__ import annotations

import h3
import pytest
from registry.authority_world import with_regions
from registry.world import NAME, told

from kfm_mlflow.canonical import load_json, write_json
from kfm_mlflow.policy.levels import Level

INSIDE = h3.latlng_to_cell(38.55, -96.95, 6)
CHILDREN = sorted(h3.cell_to_children(INSIDE, 7))
ITEM = "stac/model-item.json"
"""Where the table stands: a bill of materials lists the digest of every other file."""


def publishing(world, folder, index, rows):
    """Return a good release that publishes counts of wells over the region, signed anew."""
    bundle = world.copy(folder / str(index), index)
    path = bundle.release_dir / ITEM
    item = load_json(path)
    table = [{"h3_cell": cell, "count": count} for cell, count in rows.items()]
    item["properties"]["kfm:wells"] = table
    write_json(path, item)
    world.sign(bundle)
    world.attest(bundle)
    return bundle


@pytest.fixture
def served(registry, world, tmp_path):
    """Return a registry in which a cell of 366 wells is at Production; k is 10."""
    with_regions(registry, north={"k_min": 10})
    registry.register(publishing(world, tmp_path, 0, {INSIDE: 366}))
    registry.to_production(1)
    return registry


def differencing(registry, version, level=Level.STAGING):
    report = registry.store.check(NAME, version, level).report
    return [f for gate in report.gates for f in gate.findings if f.code == "CARE_DIFFERENCING"]


def test_a_release_that_gives_six_wells_away_beside_its_predecessor_is_refused_and_named(
    served, world, tmp_path
):
    rows = dict.fromkeys(CHILDREN[:6], 60)
    served.register(publishing(world, tmp_path, 1, rows))
    with told(403, "CARE differencing conflict", f"/kfm/models/{NAME}/2"):
        served.store.move(NAME, 2, Level.STAGING)
    (finding,) = differencing(served, 2)
    assert finding.detail.startswith(
        f"S-F05: {ITEM}: $.properties.kfm:wells: region north: counts, subtracted"
    )
    assert (finding.observed, finding.limit, finding.unit) == ("6", "10", "records")
    assert "cells that the release at Production published" in finding.remedy
    assert served.level(2) == "candidate"


def test_without_a_predecessor_nothing_is_found_and_the_report_says_that_nothing_was_asked(
    registry, world
):
    registry.register(world.releases[0])
    (finding,) = differencing(registry, 1)
    why = "not asked: no other release of this model is at Production"
    assert (str(finding.verdict), finding.detail) == ("PASS", why)


def test_one_that_leaves_ten_wells_passes_and_a_rollback_is_not_asked(served, world, tmp_path):
    rows = {**dict.fromkeys(CHILDREN[:6], 60), CHILDREN[6]: 16}
    served.register(publishing(world, tmp_path, 1, rows))
    (finding,) = differencing(served, 2)
    assert (str(finding.verdict), finding.detail) == ("PASS", "differencing")
    served.to_production(2)
    served.store.move(NAME, 2, Level.CANDIDATE, restore=1)
    assert served.level(1) == "production"


def test_a_predecessor_that_can_not_be_read_is_taken_for_one_that_tells_too_much(
    served, world, tmp_path
):
    served.register(publishing(world, tmp_path, 1, {INSIDE: 366}))
    (frozen,) = served.area.rglob(ITEM)
    frozen.chmod(0o644)
    frozen.write_text("[]")
    (finding,) = differencing(served, 2)
    assert "cannot be read" in finding.detail
    assert str(finding.verdict) == "INCONCLUSIVE"
