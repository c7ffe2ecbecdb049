"""What may be told of a regions file to everybody: rules and coarse cells, no names, no outlines.

Rules kept here:

1. Cells are nowhere finer than any region that they touch allows now, and cover more than their
   own. Of a region in which nothing may be published now (consent denied or withdrawn, an embargo,
   a closed season, a restricted label) no cell is told, nor one that touches such a region.
2. Names of regions are left out. A restricted name is told as its keyed hash, which only who holds
   the file can make (:meth:`~kfm_mlflow.care.regions.RegionSet.keyed_hash`); so is an id, authority
   or label in which one occurs, also misspelt.
3. The digest of the file binds it to the policy: who is given the file can make all of this again,
   for the same rules. Equal files give equal views as long as time changes no rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kfm_mlflow.care.cells import format_cells, parents, resolutions

if TYPE_CHECKING:
    from datetime import datetime

    from kfm_mlflow.care.cells import Cells
    from kfm_mlflow.care.regions import Region, RegionSet

SCHEMA_VERSION = "1"
_UNMASKED = "none_required"
"""The masking mode that adds nothing to the regions' own rules."""


def published_regions(regions: RegionSet, now: datetime) -> dict[str, Any]:
    """Return the public view of a regions file, in JSON.

    Args:
        regions: Of the file.
        now: When it is told (aware): embargoes, seasons and consent are judged by it.

    Returns:
        See ``docs/formats/regions_public.md``.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "regions_digest": regions.digest,
        "regions": [_published(region, regions, now) for region in regions.regions],
    }


def _published(region: Region, regions: RegionSet, now: datetime) -> dict[str, Any]:
    expires_at, scope = region.consent.expires_at, region.consent.scope
    rule = region.rule_at(now)
    return {
        "id": regions.shown(region.id),
        "authority": None if region.authority is None else regions.shown(region.authority),
        "consent": {
            "status": region.consent.status,
            "scope": None if scope is None else regions.shown(scope),
            "expires_at": None
            if expires_at is None
            else expires_at.isoformat().replace("+00:00", "Z"),
        },
        "h3_max_resolution": None if rule.is_withheld else rule.ceiling,
        "k_min": rule.k_min,
        "labels": [regions.shown(label) for label in region.labels],
        "restricted_names": sorted(regions.keyed_hash(name) for name in region.restricted_names),
        "cells": format_cells(told_cells(region, regions, now)),
    }


def told_cells(region: Region, regions: RegionSet, now: datetime) -> Cells:
    """Return cells that stand for a region in public: sorted, none of them in another.

    Args:
        region: One of the file.
        regions: The file.
        now: The instant (aware).

    Returns:
        Nothing where nothing may be published.
    """
    if region.rule_at(now).is_withheld:
        return np.zeros(0, dtype=np.uint64)
    return at_ceilings(region.cover, regions, now)


def at_ceilings(cells: Cells, regions: RegionSet, now: datetime) -> Cells:
    """Take cells up until each is as coarse as every region that it touches asks for now.

    Args:
        cells: H3 cells of any resolutions.
        regions: Whose rules hold.
        now: The instant (aware).

    Returns:
        Sorted cells, none in another; what touches a region in which nothing may be published is
        left out.
    """
    coverage = regions.coverage(now, mode=_UNMASKED)
    while True:
        ceilings = coverage.ceilings(cells)
        cells, ceilings = cells[ceilings >= 0], ceilings[ceilings >= 0]
        levels = resolutions(cells)
        if not np.any(levels > ceilings):
            return _maximal(np.unique(cells))
        cells = np.unique(parents(cells, np.minimum(levels, ceilings)))


def _maximal(cells: Cells) -> Cells:
    """Leave out every cell that lies in another: told both, their difference is told, too."""
    levels = resolutions(cells)
    inside = np.zeros(cells.shape, dtype=bool)
    for level in np.unique(levels):
        finer = levels > level
        inside[finer] |= np.isin(parents(cells[finer], int(level)), cells[levels == level])
    return cells[~inside]
