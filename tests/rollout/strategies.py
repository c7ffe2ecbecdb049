"""Hypothesis strategies for the values of a rollout."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from kfm_mlflow.gates.verdict import Verdict
from kfm_mlflow.rollout.analysis import Analysis, Memory, MetricAnalysis
from kfm_mlflow.rollout.explanation_watch import ExplanationFindings, ExplanationWindow
from kfm_mlflow.rollout.plane import ArmCounts
from kfm_mlflow.rollout.sequential import Block, Sequential
from kfm_mlflow.rollout.state import AskedSplit, Phase, RolloutState, Trigger

START = datetime(2026, 11, 20, tzinfo=UTC)
count = st.integers(0, 10**9)
ratio = st.floats(0, 1)
instants = st.integers(0, 10**6).map(lambda us: START + timedelta(microseconds=us))
names = st.sampled_from(["error_ratio", "mean_shift_ratio"])
bounds = st.sampled_from([1.0, 1.26, 10.0, 63095.73, float("inf")])
arms = st.builds(
    ArmCounts,
    request_count=count,
    error_count=count,
    latency_ms_buckets=st.dictionaries(bounds, count),
    outside_count=st.dictionaries(names, count),
    measured_count=st.dictionaries(names, count),
    explained_count=count,
    unexplained_count=count,
    instability_ppm=count,
    worst_instability_ppm=count,
    alarm_count=st.dictionaries(names, count),
    signal_count=st.dictionaries(names, count),
    signal_ppm=st.dictionaries(names, count),
)
blocks = st.builds(Block, count, count, count, count)
memories = st.builds(
    Memory,
    canary_seen=st.none() | arms,
    stable_seen=st.none() | arms,
    canary=arms,
    stable=arms,
    sequential=st.dictionaries(names, st.builds(Sequential, blocks, blocks, st.floats(-1e6, 1e6))),
    explanations=st.builds(ExplanationWindow, count, count, count, count, count),
)
explanations = st.builds(
    ExplanationFindings,
    verdict=st.none() | st.sampled_from(Verdict),
    reason=st.text(max_size=8),
    mode=st.sampled_from(["enforce", "audit"]),
    min_stability=ratio,
    min_samples=count,
    mean_stability=st.none() | st.floats(-1, 1),
    lowest_stability=st.none() | st.floats(-1, 1),
    row_count=count,
    unexplained_count=count,
)
metrics = st.builds(
    MetricAnalysis,
    name=names,
    kind=st.sampled_from(["limit", "compare", "explanation"]),
    verdict=st.none() | st.sampled_from(Verdict),
    sample_count=count,
    canary_ratio=st.none() | ratio,
    e_value=st.none() | st.floats(0, 1e300),
    reason=st.text(max_size=8),
)
states = st.builds(
    RolloutState,
    model_name=st.text(max_size=8),
    phase=st.sampled_from(Phase),
    entered_at=instants,
    step_entered_at=instants,
    candidate=st.none() | count,
    stable=st.none() | count,
    generation=count,
    split=st.builds(AskedSplit, st.none() | count, st.none() | count, ratio, count),
    verified=st.lists(count, max_size=3).map(tuple),
    promoted=st.booleans(),
    paused_from=st.none() | st.sampled_from(Phase),
    memory=memories,
    analysis=st.none()
    | st.builds(
        Analysis,
        st.sampled_from(Verdict),
        st.tuples(metrics, metrics),
        ratio,
        explanations=st.none() | explanations,
    ),
    trigger=st.none() | st.sampled_from(Trigger),
    reason=st.text(max_size=8),
    detected_at=st.none() | instants,
    retired_at=st.dictionaries(count, instants, max_size=3),
)
