"""Rows per second of a Focus Mode model and its stories on one core, with the floor under each.

The floor of a network is what its arithmetic and its memory traffic cost alone: multiplications and
additions (counted by torch as it runs) over the rate of a large float32 matrix product, and bytes
(weights once, rows in, answers out) over the rate of a copy, both measured in the same rounds on
one thread; the longer of the two. A story is text, and nothing is multiplied for it: its peer is
writing it, which every server must.

Weights are those of an untrained model: how long they take does not depend on what they are.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from report import Row, paired_ratio, spread_of

from kfm_mlflow.canonical import canonical_bytes, digest_file

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = {"small": 20, "full": 100}
BATCHES = (1, 64, 1024)
_MATRIX, _COPIED_COUNT = 768, 4_000_000
_FLOAT_BYTES = 4
_REPEATS = 5


def _timed_s(work: Callable[[], Any]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


class Machine:
    """How fast one core multiplies and copies, measured whenever it is asked."""

    def __init__(self) -> None:
        """Make the matrices and the block that are multiplied and copied."""
        import torch

        self._left, self._right = torch.randn(2, _MATRIX, _MATRIX)
        self._from = np.ones(_COPIED_COUNT, np.float32)
        self._to = np.empty_like(self._from)

    def floor_s(self, flop_count: int, byte_count: int) -> float:
        """Return how long so much arithmetic and memory traffic takes at least."""
        multiplied_s = min(_timed_s(lambda: self._left @ self._right) for _ in range(_REPEATS))
        copied_s = min(_timed_s(lambda: np.copyto(self._to, self._from)) for _ in range(_REPEATS))
        flop_rate = 2 * _MATRIX**3 / multiplied_s
        byte_rate = 2 * self._from.nbytes / copied_s
        return max(flop_count / flop_rate, byte_count / byte_rate)


def _flop_count(module: Any, *inputs: Any) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs)
    return int(counter.get_total_flops())


def _parameter_bytes(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) * _FLOAT_BYTES


def _network_row(
    what: str, rounds: int, batch: int, work: Callable[[], Any], floor_s: Callable[[], float]
) -> Row:
    work()
    ours, floors = [], []
    for _ in range(rounds):
        ours.append(min(_timed_s(work) for _ in range(_REPEATS)))
        floors.append(floor_s())
    return Row(
        f"{what}, {batch} {'row' if batch == 1 else 'rows'} at once",
        f"{batch / spread_of(ours).median:,.0f} rows/s",
        "the floor: arithmetic or memory alone",
        f"{batch / spread_of(floors).median:,.0f} rows/s",
        paired_ratio(ours, floors),
        note="one core, one thread",
    )


def _networks(rounds: int, work_dir: Path) -> list[Row]:
    import torch

    from focus_mode.model import FocusModel
    from kfm_mlflow.authoring.export import export_onnx
    from kfm_serving.session import OnnxModel

    torch.set_num_threads(1)
    model = FocusModel().eval()
    path = work_dir / "model.onnx"
    path.write_bytes(export_onnx(model, (36,)).SerializeToString())
    session = OnnxModel(path, digest_file(path), wants_gpu=False)
    machine, found = Machine(), []
    for batch in BATCHES:
        rows = torch.randn(batch, 36)
        flops = _flop_count(model, rows)
        moved = _parameter_bytes(model) + batch * (36 + 2121) * _FLOAT_BYTES
        feeds = {session.inputs[0].name: rows.numpy()}
        found.append(
            _network_row(
                f"whole model, onnxruntime ({flops / batch / 1e6:.1f} MFLOP a row)",
                rounds,
                batch,
                lambda feeds=feeds: session.run(feeds),
                lambda flops=flops, moved=moved: machine.floor_s(flops, moved),
            )
        )
    return found + _parts(model, rounds, machine)


def _parts(model: Any, rounds: int, machine: Machine) -> list[Row]:
    """Measure fusion and story decoder alone, many rows at once."""
    import torch

    batch = BATCHES[-1]
    with torch.no_grad():
        tokens = model.tokens(torch.randn(batch, 36))
        weights, vectors, _ = model.fuse(tokens)
    cases = (
        ("fusion", model.fusion, (tokens, weights)),
        ("story decoder", model.story, (vectors, torch.randn(batch, 36))),
    )
    found = []
    for what, module, inputs in cases:
        with torch.no_grad():
            answers = module(*inputs)
        flops = _flop_count(module, *inputs)
        numbers = sum(tensor.numel() for tensor in (*inputs, *answers))
        moved = _parameter_bytes(module) + numbers * _FLOAT_BYTES

        def work(module: Any = module, inputs: Any = inputs) -> None:
            with torch.no_grad():
                module(*inputs)

        def floor_s(flops: int = flops, moved: int = moved) -> float:
            return machine.floor_s(flops, moved)

        title = f"{what}, torch ({flops / batch / 1e6:.2f} MFLOP a row)"
        found.append(_network_row(title, rounds, batch, work, floor_s))
    return found


def _stories(rounds: int) -> list[Row]:
    """Measure telling a story and judging it, against writing it."""
    from focus_mode.world import generate_world
    from kfm_mlflow.focus.answers import ANSWER_WIDTH, PART_SLICES, split_answers
    from kfm_mlflow.focus.lexicon import build_lexicon
    from kfm_mlflow.focus.narrative import check_story
    from kfm_mlflow.focus.story import tell

    world = generate_world(size="small")
    lexicon, row = build_lexicon(world.thresholds), world.rows[0]
    tensor = np.zeros((1, ANSWER_WIDTH), np.float32)
    tensor[:, PART_SLICES["relevance"]] = 0.9  # as many claims as a story may make
    tensor[:, PART_SLICES["situation"]] = 1 / 6
    answers = split_answers(tensor)

    def told() -> dict[str, Any]:
        cell, time_ = world.cells[0], world.times[0]
        return tell(answers, 0, row, cell=cell, time=time_, lexicon=lexicon)

    story = told()
    works = {
        "tell a story": told,
        "judge a story": lambda: check_story(story, row, lexicon, max_resolution=7),
    }
    found = []
    for what, work in works.items():
        ours, floors = [], []
        for _ in range(rounds):
            ours.append(min(_timed_s(work) for _ in range(_REPEATS)))
            floors.append(min(_timed_s(lambda: canonical_bytes(story)) for _ in range(_REPEATS)))
        found.append(
            Row(
                what,
                f"{1 / spread_of(ours).median:,.0f} stories/s",
                "writing it as canonical JSON",
                f"{1 / spread_of(floors).median:,.0f} stories/s",
                paired_ratio(ours, floors),
                note=f"{len(story['claims'])} claims, {len(canonical_bytes(story))} bytes",
            )
        )
    return found


def measure(size: str, work_dir: Path) -> list[Row]:
    """Return the rows of this bench.

    Args:
        size: ``small`` or ``full``.
        work_dir: Where the model is written.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "projects" / "focus_mode"))
    return [*_networks(ROUNDS[size], work_dir), *_stories(ROUNDS[size])]
