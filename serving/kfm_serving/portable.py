"""The portable traffic plane: stock Ray Serve, one application per release and one router.

Rules kept here:

1. A release's application is never changed in place; deploying it again is another deployment.
2. A failed deployment leaves nothing behind.
3. The declared split (:mod:`kfm_serving.desired`) is written before it is broadcast, so a router
   that starts in between has it; and the call returns only when the running routers have it.
4. Counts are kept by router process. A router's last report outlives it, in the cluster; what it
   counted between the last ``observe`` and its death by force is lost, and nothing else is.
"""

from __future__ import annotations

import time
import uuid
from functools import partial
from typing import TYPE_CHECKING

from kfm_mlflow.canonical import digest_file
from kfm_mlflow.errors import EvidenceError, InputError, PlaneError
from kfm_mlflow.monitor.drift_bins import load_bins
from kfm_mlflow.rollout.plane import ArmCounts, Observation
from kfm_serving import applications
from kfm_serving.counts import LATENCY_BOUNDS_MS, merge_tallies
from kfm_serving.desired import DesiredSplit, DesiredState, ReleaseRecord, arms_of
from kfm_serving.ingress import Ingress
from kfm_serving.names import parse_release_app, release_app, router_app
from kfm_serving.traces import declared_seed

if TYPE_CHECKING:
    from collections.abc import Callable

    from kfm_mlflow.monitor.spans import SpanOptions
    from kfm_mlflow.rollout.plane import Deployable, Split


class PortablePlane:
    """Carries the traffic of one registered model over Ray Serve.

    Implements :class:`kfm_mlflow.rollout.plane.TrafficPlane`. The process must be connected to a
    Ray cluster where Serve runs (:func:`kfm_serving.cluster.start_local` or ``attach``). All
    state is in the cluster: a new plane for the same model carries on where another stopped.
    """

    def __init__(
        self,
        model_name: str,
        *,
        port: int,
        host: str = "127.0.0.1",
        route_prefix: str = "/",
        router_replicas: int = 1,
        deadline_s: float = 30.0,
        canary_deadline_s: float = 2.0,
        gpu_share: float = 0.0,
        spans: SpanOptions | None = None,
        reattach: Callable[[], None] | None = None,
    ) -> None:
        """Make a plane; nothing is started before the first ``deploy`` or ``set_split``.

        Args:
            model_name: Registered model.
            port: Port of Serve's HTTP proxy.
            host: Address at which this process reaches that proxy.
            route_prefix: Path under which the model is served; one per model.
            router_replicas: Router processes.
            deadline_s: How long the stable release may take to answer, 0..60.
            canary_deadline_s: How long a canary may take before the stable release answers.
            gpu_share: GPUs lent to each release, e.g. 0.5; 0 serves on the CPU.
            spans: Which spans routers keep; None keeps none. A router that is up stays as it is.
            reattach: Joins the cluster anew when it was lost; None stays with the error.

        Raises:
            InputError: A deadline is not within 0..60 s, or the prefix does not start with ``/``.
        """
        if not 0 < deadline_s <= LATENCY_BOUNDS_MS[-1] / 1e3 or not canary_deadline_s > 0:
            raise InputError("deadlines must be above 0 and at most 60 s", where="deadline_s")
        if not route_prefix.startswith("/"):
            raise InputError("must start with '/'", where="route_prefix")
        self._model_name = model_name
        self._gpu_share = gpu_share
        self._reattach = reattach
        self._state = DesiredState(model_name)
        deadlines_s = (deadline_s, min(canary_deadline_s, deadline_s))
        self._ingress = Ingress(
            router_app(model_name),
            partial(
                applications.build_router,
                model_name,
                route_prefix,
                deadlines_s,
                router_replicas,
                spans,
            ),
            (host, port),
            route_prefix,
        )

    @property
    def url(self) -> str:
        """Where the model is served; ``/invocations`` below it scores."""
        return self._ingress.url

    def deploy(self, release: Deployable, *, timeout_s: float) -> None:
        """Serve a release beside the others, with no traffic yet; return when it answers.

        Args:
            release: What to serve; its bytes have been verified by the caller.
            timeout_s: How long the whole call may take.

        Raises:
            PlaneError: It did not become ready within ``timeout_s``, or the version is up with
                another release id. Nothing of it is left behind.
            InputError: The release is of another model.
        """
        deadline_s = time.monotonic() + timeout_s
        if release.model_name != self._model_name:
            raise InputError(
                f"release of {release.model_name!r} given to the plane of {self._model_name!r}"
            )
        self._refuse_another(release)
        app = release_app(self._model_name, release.version)
        status = applications.statuses().get(app)
        has_traffic = release.version in self._routed()
        try:
            if self._is_known(release) and status is not None and status.status != "DEPLOY_FAILED":
                self._await_answer(app, deadline_s)
                return
            applications.delete(app)
            self._start(app, release, deadline_s)
        except Exception as exc:
            # A release that has traffic comes back by itself; its requests wait or go elsewhere.
            if not has_traffic:
                applications.delete(app)
            raise PlaneError(
                f"version {release.version} did not become ready ({applications.reason(exc)})",
                where=self._model_name,
                remedy="check the release with `kfm verify`, and the cluster's logs",
            ) from exc

    def deployed(self) -> frozenset[int]:
        """Return the versions that are up and healthy.

        A cluster that was restarted is joined again; then nothing is up.

        Raises:
            PlaneError: The cluster does not answer.
        """
        try:
            statuses = applications.statuses()
        except PlaneError:
            if self._reattach is None:
                raise
            self._ingress.forget()
            self._reattach()
            statuses = applications.statuses()
        records = self._state.read_releases()
        found = {
            parse_release_app(self._model_name, app)
            for app, status in statuses.items()
            if status.status == "RUNNING"
        }
        return frozenset(v for v in found if v is not None and v in records and records[v].is_up)

    def remove(self, version: int) -> None:
        """Take a version down.

        Raises:
            PlaneError: The split still gives it requests, or it did not go.
        """
        if version in self._routed():
            raise PlaneError(
                f"version {version} still has traffic",
                where=self._model_name,
                remedy="set a split without it first",
            )
        applications.delete(release_app(self._model_name, version))
        records = self._state.read_releases()
        if version in records:
            records[version] = records[version].model_copy(update={"is_up": False})
            self._state.write_releases(records)

    def set_split(self, split: Split) -> None:
        """Declare a split, broadcast it, and return when every running router has it.

        Raises:
            PlaneError: The generation is not newer (the same split again is no error), a version
                of it is not deployed, or a router did not acknowledge.
        """
        current = self._state.read_split()
        is_repeat = current is not None and current.to_split() == split
        if current is not None and not is_repeat and split.generation <= current.generation:
            raise PlaneError(
                f"generation {split.generation} is not newer than {current.generation}",
                where=self._model_name,
                remedy="read the split again and count on from its generation",
            )
        records = self._state.read_releases()
        arms = arms_of(split)
        missing = sorted(v for v in arms if v not in records or not records[v].is_up)
        if missing:
            raise PlaneError(
                f"version {missing[0]} is not deployed",
                where=self._model_name,
                remedy="deploy it before giving it traffic",
            )
        if not self._ingress.is_known:
            self._ingress.ensure()
        data = self._state.write_split(
            DesiredSplit.from_split(split, {v: records[v].deployment_id for v in arms})
        )
        self._ingress.tell(data, split.generation)

    def observe(self) -> Observation:
        """Return exact counts per version, merged over all routers, living and dead.

        Raises:
            PlaneError: No router answered.
        """
        if self._ingress.app not in applications.statuses():
            return Observation(generation=0, arms={})
        fresh = self._ingress.ask("counts")
        known = self._state.read_reports()
        reports = {**known, **{report["process"]: report for report in fresh}}
        if reports != known:
            self._state.write_reports(reports)
        arms: dict[int, ArmCounts] = {}
        records = self._state.read_releases()
        for version, record in records.items():
            tallies = (r["arms"].get(record.deployment_id) for r in reports.values())
            arms[version] = merge_tallies(t for t in tallies if t is not None)
        baselines = {v: record.baseline for v, record in records.items() if record.baseline}
        return Observation(min(report["generation"] for report in fresh), arms, baselines)

    def close(self) -> None:
        """Take down the router and every release of the model, and forget its state."""
        apps = [
            a for a in applications.statuses() if parse_release_app(self._model_name, a) is not None
        ]
        for app in [self._ingress.app, *apps]:
            applications.delete(app)
        self._state.clear()
        self._ingress.forget()

    def _routed(self) -> dict[int, str]:
        """Return the versions that get requests now, with their deployment ids."""
        desired = self._state.read_split()
        return {} if desired is None else desired.deployment_ids

    def _is_known(self, release: Deployable) -> bool:
        record = self._state.read_releases().get(release.version)
        return record is not None and record.is_up and record.release_id == release.release_id

    def _refuse_another(self, release: Deployable) -> None:
        record = self._state.read_releases().get(release.version)
        if record is not None and record.is_up and record.release_id != release.release_id:
            raise PlaneError(
                f"version {release.version} is up with another release, {record.release_id}",
                where=self._model_name,
                remedy="a version never changes; remove it, or deploy a new version",
            )

    def _await_answer(self, app: str, deadline_s: float) -> None:
        applications.await_running(app, deadline_s)
        left_s = max(0.1, deadline_s - time.monotonic())
        applications.handle(app).ping.remote().result(timeout_s=left_s)

    def _start(self, app: str, release: Deployable, deadline_s: float) -> None:
        try:
            digest = digest_file(release.release_dir / "model.onnx")
        except OSError as exc:
            raise EvidenceError(f"cannot be read ({exc.strerror})", where="model.onnx") from exc
        bins = load_bins(release.release_dir)
        directory = str(release.release_dir.resolve())
        replica = applications.build_replica(
            directory, digest, self._gpu_share, release.masking, release.explain_interval_s
        )
        applications.start(app, replica)
        self._await_answer(app, deadline_s)
        self._ingress.ensure()
        record = ReleaseRecord(
            deployment_id=self._routed().get(release.version, uuid.uuid4().hex),
            release_id=release.release_id,
            seed=declared_seed(release.release_dir),
            baseline=None if bins is None else bins.known,
        )
        self._state.write_releases({**self._state.read_releases(), release.version: record})
