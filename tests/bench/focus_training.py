"""A Focus Mode model against what knows less: score, training time, energy, size; generated world.

A round is one seed: a world is made, the model is trained by the project's own code inside
``measure_energy``, and measured by the project's own evaluation on places that it has not seen.
Every score is an error, so that a ratio below 1 is better. ``size=small`` trains the preset for
tests.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

from report import Row, paired_ratio

from kfm_mlflow import measure_energy

SEEDS = {"small": (42, 43), "full": (42, 43, 44)}
PRESETS = {"small": "small", "full": "default"}
GOAL = 1.0
"""A model that does not beat its baseline has no business in a registry."""
ERRORS = (
    ("situation of a place", "situation_accuracy", "always the commonest", "situation_baseline"),
    ("domain with the evidence", "routing_accuracy", "always the commonest", "routing_baseline"),
    ("same situation among 10 nearest", "recall_at_10", "raw columns", "recall_baseline"),
)
"""What is asked, its metric, the peer, the peer's metric; each is a share that is right."""
SKILLS = ("climate", "hydrology", "hazard")
"""Domains foretold a month ahead; 1 - skill is the error over that of the better of persistence and
climatology, whose own is therefore 1. The same regression on raw columns is no baseline to be
beaten: raw columns are in the vectors' inputs."""


def measure(size: str) -> list[Row]:
    """Train once per seed, and return one row per baseline."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "projects" / "focus_mode"))
    rounds = [_train(PRESETS[size], seed) for seed in SEEDS[size]]
    said = (
        f"trained in {median(r['train_s'] for r in rounds):.1f} s with "
        f"{median(r['energy_wh'] for r in rounds):.3f} Wh (CodeCarbon's estimate); "
        f"{rounds[0]['parameter_count']:.0f} parameters"
    )
    rows = [_row(one, rounds, said) for one in ERRORS]
    for name in SKILLS:
        what, metric = f"{name} next month", f"{name}_skill"
        rows.append(_row((what, metric, "persistence or climatology", ""), rounds, said))
        raw = _row(
            (what, metric, "the same regression on raw columns", f"{name}_raw_skill"), rounds, said
        )
        rows.append(replace(raw, goal=None))
    return rows


def _train(preset: str, seed: int) -> dict[str, float]:
    from focus_mode.draft import draft_of
    from focus_mode.evaluate import evaluate
    from focus_mode.prepared import prepare
    from focus_mode.train import train

    prepared = prepare("generated", size=preset, seed=seed, regions="packaged")
    with measure_energy() as energy:
        trained = train(prepared.world, size=preset, seed=seed)
    draft = draft_of(trained, prepared.whole, prepared.world, prepared.regions, seed=seed)
    return {
        **evaluate(draft.predict, prepared.world),
        "train_s": trained.elapsed_s,
        "energy_wh": energy.finish().energy_wh,
        "parameter_count": float(sum(part.numel() for part in trained.model.parameters())),
    }


def _row(asked: tuple[str, str, str, str], rounds: list[dict[str, float]], said: str) -> Row:
    what, metric, peer, peers_metric = asked
    ours = [1.0 - one[metric] for one in rounds]
    # Without a metric of its own the peer is what skill is measured against.
    theirs = [1.0 - one[peers_metric] if peers_metric else 1.0 for one in rounds]
    return Row(
        f"Focus Mode, {what}: 1 - `{metric}`",
        f"{median(ours):.3f}",
        peer,
        f"{median(theirs):.3f}",
        paired_ratio(ours, theirs),
        GOAL,
        said,
    )
