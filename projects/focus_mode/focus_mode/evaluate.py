"""What a Focus Mode model is measured by, on the rows of cells that training never saw.

Everything is measured through the answers [n, 2121] alone, so that the trainer's torch module and
the validator's copy of a release are measured the same way. *What a domain says* is the fused
vector of a row in which all other domains have the values of the mean training row. Probes are
fitted on training rows and read held-out ones.

========================== ============================================== ==========================
metric                     what it is                                     compared with
========================== ============================================== ==========================
geo_region_accuracy        classes of held-out cells by a linear probe    geo_latlon_accuracy: mean
geo_terrain_accuracy       on what the spatial domain says                over the three of the
geo_watershed_accuracy                                                    better of linear probe and
geo_gain                   their mean less geo_latlon_accuracy            nearest neighbour by
                                                                          latitude and longitude
climate_skill              1 - RMSE / RMSE of the reference, mean over    the better of persistence
hydrology_skill            next month's numbers, by a linear probe on     and climatology (a yearly
hazard_skill               what the domain says                           sine of training rows);
                                                                          ``_raw_skill``: the same
                                                                          probe on the raw columns
routing_accuracy           the heaviest domain is the one that leads      routing_baseline: always
                                                                          the most common one
situation_accuracy         the likeliest situation is the true one        situation_baseline: the same
attribution_accuracy       the domain with the largest share leads        routing_baseline
recall_at_10               same situation among the ten nearest fused     recall_baseline: the same by
                           vectors, of other cells, mean over situations  standardised raw columns
fusion_* and the others    :func:`kfm_mlflow.focus.fusion.fusion_metrics` the frozen baseline
========================== ============================================== ==========================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from focus_mode.probes import class_probe, nearest_class, recall_at_10, ridge_probe
from kfm_mlflow.errors import DataError
from kfm_mlflow.focus.answers import split_answers
from kfm_mlflow.focus.columns import COLUMN_NAMES, domain_slice
from kfm_mlflow.focus.fusion import fusion_metrics, measure_fusion, only_domain, sample_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from focus_mode.world import World
    from kfm_mlflow.focus.columns import Domain
    from kfm_mlflow.focus.fusion import FusionBaseline

    Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

PROBE_COUNT = 600
"""Training rows that a probe of next month is fitted on."""
READ_COUNT = 2000
"""Held-out rows that are read; all where there are fewer, and all cells for their classes."""
_BATCH = 512
_PERSISTENT = {
    "climate": ("temperature_c", "precipitation_mm"),
    "hydrology": ("soil_moisture_ratio", "streamflow_percentile"),
}


def evaluate(
    predict: Predict, world: World, *, baseline: FusionBaseline | None = None
) -> dict[str, float]:
    """Return all metrics of a model on the held-out rows of a world.

    Args:
        predict: float32 [n, 36] to float32 [n, 2121].
        world: Whose training rows fit the probes.
        baseline: What the release froze; by default measured on the training rows.

    Raises:
        DataError: The answers have another width, or no row is held out, or every one is.
    """

    def ask(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([predict(rows[k : k + _BATCH]) for k in range(0, len(rows), _BATCH)])

    held = np.flatnonzero(world.is_held_out)
    if len(held) in (0, len(world.rows)):
        raise DataError(
            f"has {len(held)} held-out rows of {len(world.rows)}",
            where=world.name,
            remedy="give cells of several H3 parents: every third is held out",
        )
    if baseline is None:
        baseline = measure_fusion(ask, world.rows[~world.is_held_out])
    return {
        **_geo_metrics(ask, world),
        **_skills(ask, world),
        **_answer_metrics(ask, world, held),
        **fusion_metrics(ask, world.rows[held], baseline),
    }


def _said_by(
    predict: Predict, world: World, domain: Domain, chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    silent = world.rows[~world.is_held_out].mean(0, dtype=np.float64).astype(np.float32)
    return split_answers(predict(only_domain(world.rows[chosen], domain, silent))).fusion


def _geo_metrics(predict: Predict, world: World) -> dict[str, float]:
    _, first = np.unique(np.asarray(world.cells), return_index=True)
    train, held = first[~world.is_held_out[first]], first[world.is_held_out[first]]
    known, asked = (_said_by(predict, world, "spatial", chosen) for chosen in (train, held))
    places = world.rows[:, :2]
    accuracy, reference = {}, []
    for name in ("region", "terrain", "watershed"):
        truth: NDArray[np.int64] = getattr(world, name)
        found = class_probe(known, truth[train], asked)
        accuracy[f"geo_{name}_accuracy"] = float((found == truth[held]).mean())
        reference.append(
            max(
                float((probe(places[train], truth[train], places[held]) == truth[held]).mean())
                for probe in (class_probe, nearest_class)
            )
        )
    latlon = float(np.mean(reference))
    return {
        **accuracy,
        "geo_latlon_accuracy": latlon,
        "geo_gain": float(np.mean(list(accuracy.values()))) - latlon,
    }


def _skills(predict: Predict, world: World) -> dict[str, float]:
    train_all, held_all = (np.flatnonzero(part) for part in (~world.is_held_out, world.is_held_out))
    train = train_all[sample_rows(len(train_all), PROBE_COUNT)]
    held = held_all[sample_rows(len(held_all), READ_COUNT)]
    turn = 2.0 * np.pi * world.months / 12.0
    season = np.column_stack([np.sin(turn), np.cos(turn)])
    ahead: dict[Domain, NDArray[np.float32]] = {
        "climate": world.next_climate,
        "hydrology": world.next_hydrology,
        "hazards": world.next_hazard[:, None],
    }
    metrics = {}
    for domain, truth in ahead.items():
        usual = ridge_probe(season[train_all], truth[train_all], season)
        last = _last_values(world, domain, usual)
        reference = np.minimum(_rmse(usual[held], truth[held]), _rmse(last[held], truth[held]))
        departure = (truth - usual)[train]
        known, asked = (_said_by(predict, world, domain, part) for part in (train, held))
        columns = world.rows[:, domain_slice(domain)]
        said = usual[held] + ridge_probe(known, departure, asked)
        raw = usual[held] + ridge_probe(columns[train], departure, columns[held])
        name = "hazard" if domain == "hazards" else domain
        for metric, answer in ((f"{name}_skill", said), (f"{name}_raw_skill", raw)):
            metrics[metric] = float(np.mean(1 - _rmse(answer, truth[held]) / reference))
    return metrics


def _last_values(
    world: World, domain: Domain, otherwise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what persistence says of next month: this month's values, [n, t].

    This month's hazard severity is what the row of the month before has as its next; where there
    is no such row, climatology stands in.
    """
    if domain in _PERSISTENT:
        return world.rows[:, [COLUMN_NAMES.index(name) for name in _PERSISTENT[domain]]].astype(
            np.float64
        )
    months = world.months.tolist()
    severity = {
        (cell, month + 1): value
        for cell, month, value in zip(world.cells, months, world.next_hazard.tolist(), strict=True)
    }
    return np.array(
        [
            [severity.get(key, float(usual))]
            for key, usual in zip(
                zip(world.cells, months, strict=True), otherwise[:, 0], strict=True
            )
        ]
    )


def _answer_metrics(predict: Predict, world: World, held: NDArray[np.int64]) -> dict[str, float]:
    chosen = held[sample_rows(len(held), READ_COUNT)]
    answers = split_answers(predict(world.rows[chosen]))
    situation, leading = world.situation[chosen], world.leading_domain[chosen]
    train = ~world.is_held_out
    groups = np.asarray(world.cells)[chosen]
    spread = world.rows[train].std(0, dtype=np.float64)
    raw = world.rows[chosen] / np.where(spread > 0, spread, 1)
    lead, usual = (
        np.bincount(truth[train]).argmax() for truth in (world.leading_domain, world.situation)
    )
    return {
        "routing_accuracy": float((answers.context_weights.argmax(1) == leading).mean()),
        "routing_baseline": float((leading == lead).mean()),
        "situation_accuracy": float((answers.situation.argmax(1) == situation).mean()),
        "situation_baseline": float((situation == usual).mean()),
        "attribution_accuracy": float((answers.attribution.argmax(1) == leading).mean()),
        "recall_at_10": recall_at_10(answers.fusion, situation, groups),
        "recall_baseline": recall_at_10(raw, situation, groups),
    }


def _rmse(answer: NDArray[np.float64], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.square(answer - truth).mean(0, dtype=np.float64)))
