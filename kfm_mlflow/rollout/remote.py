"""A governed registry over HTTP: what the controller and the command line need of it.

Refusals come back as :class:`RefusedError`, lost races as :class:`ConflictError`, wrong input as
:class:`InputError`, with the server's own sentence. Releases are verified after download: release
id first, then the signature under the policy's keys.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kfm_mlflow.canonical import canonical_bytes
from kfm_mlflow.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    KfmError,
    RefusedError,
    SignatureError,
    StorageError,
)
from kfm_mlflow.gates.evidence import trusted_signers
from kfm_mlflow.policy.models import Policy
from kfm_mlflow.release.bundle import Bundle, bundle_at, evidence_uri
from kfm_mlflow.release.manifest import build_manifest
from kfm_mlflow.rollout.login import load_login
from kfm_mlflow.rollout.plane import Deployable, MaskingOrder
from kfm_mlflow.rollout.remote_orders import RemoteOrders
from kfm_mlflow.trust.keys import load_private_key
from kfm_mlflow.trust.model_key import WORKSPACE_VARIABLE, current_key, split_key
from kfm_mlflow.trust.signing import verify_release
from kfm_mlflow.trust.statement import Binding, build_statement, sign_statement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfm_mlflow.gates.cause import Cause
    from kfm_mlflow.trust.keys import Signer

TIMEOUT_S = 60.0
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404


def find_cache(asked: Path | None, environ: Mapping[str, str]) -> Path:
    """Return where a controller keeps verified releases: a folder of the user's by default.

    Args:
        asked: The folder that was named; None when none was.
        environ: May name another place in ``XDG_CACHE_HOME``.
    """
    return asked or Path(environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kfm-mlflow"


class RemoteRegistry(RemoteOrders):
    """The registry of an MLflow server that was started with ``kfm server``.

    A model is named by its key, or by its name in the workspace of ``MLFLOW_WORKSPACE``. What goes
    through MLflow's own client (fetching a release, keeping reports) follows that variable alone,
    so that a controller serves one workspace.
    """

    def __init__(
        self,
        server: str | None,
        *,
        controller_key: Path | None = None,
        cache_dir: Path | None = None,
        regions_file: Path | None = None,
    ) -> None:
        """Name the server.

        Args:
            server: Base URL.
            controller_key: Private key that signs canary verdicts.
            cache_dir: Where verified releases are kept; a folder of the user's by default.
            regions_file: Where the policy's regions file lies on the machines that serve; None
                takes the server's own path.

        Raises:
            InputError: No server is named, or the key or the credentials cannot be read.
        """
        if not server or not server.startswith(("http://", "https://")):
            raise InputError(
                f"{server!r} is no URL of a server",
                where="--server",
                remedy="give --server URL or set MLFLOW_TRACKING_URI",
            )
        self.server = server.rstrip("/")
        self._login = load_login(os.environ, Path.home())
        self._regions_file = regions_file
        self.heads, self.orders_seen = {}, {}
        self._signer: Signer | None = load_private_key(controller_key) if controller_key else None
        self._cache_dir = find_cache(cache_dir, os.environ)

    # -- plumbing ------------------------------------------------------------------------------

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        import requests

        url = f"{self.server}/kfm/api/v1/{path}"
        options = {**self._login.options, **kwargs, "timeout": TIMEOUT_S}
        try:
            answer = requests.request(method, url, **options)  # noqa: S113 - it is in the options
        except (requests.RequestException, OSError) as exc:
            untrusted = isinstance(exc, requests.exceptions.SSLError)
            raise StorageError(
                f"cannot be reached ({type(exc).__name__})",
                where=self.server,
                remedy="name the authority of its certificate in MLFLOW_TRACKING_SERVER_CERT_PATH"
                if untrusted
                else "is `kfm server` running there?",
            ) from exc
        try:
            value = answer.json()
        except ValueError:
            value = None
        if answer.ok and value is not None:
            return value
        raise self._problem(answer.status_code, value, ok=answer.ok)

    def _problem(self, status: int, value: Any, *, ok: bool) -> KfmError:
        """Return the error that an answer stands for."""
        message = f"HTTP {status}"
        if isinstance(value, dict):
            message = str(value.get("message") or message)
        elif status == _UNAUTHORIZED:
            return self._not_logged_in()
        elif status == _FORBIDDEN:
            who = self._login.username or "you"
            message = f"{self.server}: {who} may not do this; ask its administrator for permission"
        elif ok or status == _NOT_FOUND:
            message = "this server has no kfm pages; start it with `kfm server`"
        kinds: dict[int, type[KfmError]] = {
            401: InputError,
            403: RefusedError,
            409: ConflictError,
            400: InputError,
            404: InputError,
        }
        return kinds.get(status, StorageError)(message)

    def _not_logged_in(self) -> InputError:
        if self._login.authorization:
            who = self._login.username or "the token"
            return InputError(
                f"does not let {who} in",
                where=self.server,
                remedy="check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                "or ~/.mlflow/credentials",
            )
        return InputError(
            "asks for a login",
            where=self.server,
            remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or write ~/.mlflow/credentials",
        )

    def require_current(self, name: str) -> str:
        """Return a model's own name; refuse what MLflow's client would look for elsewhere."""
        workspace, own = split_key(name)
        if workspace and current_key(own, os.environ) != name:
            raise InputError(
                "is in another workspace than the one that this process works in",
                where=f"model {name}",
                remedy=f"set {WORKSPACE_VARIABLE}={workspace}",
            )
        return own

    # -- reading -------------------------------------------------------------------------------

    def version(self, name: str, version: int) -> dict[str, Any]:
        """Return what is recorded about a version."""
        found: dict[str, Any] = self._call("GET", self._path(name, version))
        return found

    def version_numbers(self, name: str) -> tuple[int, ...]:
        """Return the numbers of all versions of a model, admitted or not, in order.

        Raises:
            StorageError: MLflow's own API refuses, or does not answer.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        own = self.require_current(name)
        client = MlflowClient(tracking_uri=self.server, registry_uri=self.server)
        found: list[int] = []
        token: str | None = None
        try:
            while True:
                page = client.search_model_versions(f"name='{own}'", page_token=token)
                found += [int(one.version) for one in page]
                token = page.token
                if not token:
                    return tuple(sorted(found))
        except MlflowException as exc:
            raise StorageError(f"cannot list versions ({exc})", where=name) from exc

    def deployed_prov(self, name: str, version: int) -> bytes:
        """Return the lineage from data to deployment, as the registry signs it: a DSSE envelope."""
        path = self._path(name, version, "/prov")
        return canonical_bytes(self._call("GET", path, params={"format": "intoto"}))

    def recheck(self, *, family: str | None = None, name: str | None = None) -> dict[str, Any]:
        """Return what today's gates say of everything that is promoted."""
        workspace, own = split_key(current_key(name or "", os.environ))
        asked = {"family": family, "model": own, "workspace": workspace}
        found: dict[str, Any] = self._call(
            "GET", "recheck", params={key: value for key, value in asked.items() if value}
        )
        return found

    def policy(self, family: str) -> Policy:
        """Return a family's resolved policy, checked against the digest that the server states."""
        found = self._call("GET", f"policies/{quote(family, safe='')}")
        policy = Policy.model_validate_json(json.dumps(found["policy"]))
        if policy.digest != found["digest"]:
            raise IntegrityError(
                "does not have the digest that the server states", where=f"policy {family}"
            )
        return policy

    def regions(self, family: str) -> dict[str, Any]:
        """Return what may be told to everybody of a family's sovereign regions."""
        found: dict[str, Any] = self._call("GET", f"policies/{quote(family, safe='')}/regions")
        return found

    def sign_export(self, name: str, version: int, index: Mapping[str, Any]) -> dict[str, Any]:
        """Return the registry's signature over the index of an export, a DSSE envelope."""
        path = self._path(name, version, "/export")
        found: dict[str, Any] = self._call("POST", path, json=dict(index))
        return found

    # -- releases ------------------------------------------------------------------------------

    def download(self, uri: str, folder: Path) -> Bundle:
        """Download a release and its evidence into an empty folder."""
        import mlflow
        from mlflow.exceptions import MlflowException

        bundle = bundle_at(folder / "release")
        for source, target in ((uri, bundle.release_dir), (evidence_uri(uri), bundle.evidence_dir)):
            target.mkdir(parents=True)
            try:
                mlflow.artifacts.download_artifacts(
                    source, dst_path=str(target), tracking_uri=self.server
                )
            except (MlflowException, OSError) as exc:
                raise StorageError(f"cannot be downloaded ({exc})", where=source) from exc
            inner = target / source.rsplit("/", 1)[-1]
            if inner.is_dir():
                # MLflow downloads a directory under its own name.
                for path in inner.iterdir():
                    path.rename(target / path.name)
                inner.rmdir()
        return bundle

    def fetch(self, model_name: str, version: int) -> Deployable:
        """Return a verified local copy of a frozen release.

        Raises:
            IntegrityError: Its bytes or its signature are not those that were admitted.
            StorageError: It cannot be downloaded.
        """
        import shutil
        import tempfile

        self.require_current(model_name)
        known = self.version(model_name, version)
        release = known["release"]
        if release is None:
            raise IntegrityError("was never frozen", where=f"{model_name} v{version}")
        home = self._cache_dir / release["id"].removeprefix("sha256:")
        if not home.is_dir():
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._cache_dir) as folder:
                inside = Path(folder) / "bundle"
                inside.mkdir()
                self.download(release["frozen_uri"], inside)
                try:
                    inside.rename(home)
                except OSError:
                    if not home.is_dir():
                        raise
        bundle = bundle_at(home / "release")
        try:
            self._verify(bundle, known)
        except IntegrityError:
            # A copy that is not what it should be is never used, and not kept.
            shutil.rmtree(home, ignore_errors=True)
            raise
        policy = self.policy(known["family"])
        return Deployable(
            model_name, version, release["id"], bundle.release_dir, self._masking(policy)
        )

    def _masking(self, policy: Policy) -> MaskingOrder:
        """Return by which regions a release is masked; nothing is read here.

        Raises:
            InputError: A regions file is given where the policy names none.
        """
        file = Path(policy.regions_file) if policy.regions_file else None
        if self._regions_file is not None and policy.regions_digest is None:
            raise InputError("the policy names no regions file", where="--regions")
        care = policy.gates.care
        return MaskingOrder(
            self._regions_file or file,
            policy.regions_digest,
            () if care is None else care.public_terms,
        )

    def _verify(self, bundle: Bundle, known: Mapping[str, Any]) -> None:
        where = f"{known['name']} v{known['version']}"
        manifest = build_manifest(bundle.release_dir)
        if manifest.release_id != known["release"]["id"]:
            raise IntegrityError(
                f"has release id {manifest.release_id}, admitted was {known['release']['id']}",
                where=where,
            )
        report = verify_release(
            bundle.release_dir,
            bundle.signature_path,
            trusted_signers(self.policy(known["family"]).trust),
            datetime.now(UTC),
            digests=manifest.digests,
        )
        if not report.ok:
            raise SignatureError("; ".join(report.problems), where=where)

    # -- writing -------------------------------------------------------------------------------

    def request_move(
        self,
        name: str,
        version: int,
        level: str,
        *,
        reason: str = "",
        cause: Cause | None = None,
        expect: Mapping[str, int | None] | None = None,
        restore: int | None = None,
        break_glass: Mapping[str, str | float] | None = None,
    ) -> dict[str, Any]:
        """Move a version; the server's gates decide."""
        body = {
            "to": level,
            "reason": reason,
            "cause": None if cause is None else cause.model_dump(mode="json"),
            "expect": dict(expect) if expect else None,
            "restore": restore,
            "break_glass": dict(break_glass) if break_glass else None,
        }
        done: dict[str, Any] = self._call("POST", self._path(name, version, "/moves"), json=body)
        return done

    def publish_verdict(self, model_name: str, version: int, analysis: Mapping[str, Any]) -> None:
        """Sign what a canary's analysis found and send it.

        Raises:
            InputError: There is no controller key.
        """
        if self._signer is None:
            raise InputError(
                "is needed to sign the canary verdict",
                where="--key",
                remedy="kfm keys new controller",
            )
        known = self.version(model_name, version)
        binding = Binding(
            current_key(model_name, os.environ),
            known["release"]["version"],
            known["release"]["id"],
            known["policy_digest"],
            version,
        )
        claims = {**analysis, "epoch": known["epoch"]}
        statement = build_statement("canary-verdict", binding, claims, datetime.now(UTC))
        self.attest(model_name, version, sign_statement(statement, self._signer))

    def publish_reports(
        self, model_name: str, version: int, documents: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Log a rollback's documents to the run that the version came from."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        own = self.require_current(model_name)
        client = MlflowClient(tracking_uri=self.server, registry_uri=self.server)
        try:
            run_id = client.get_model_version(own, str(version)).run_id
            if not run_id:
                raise StorageError(
                    "has no run to keep the reports in", where=f"{model_name} v{version}"
                )
            for name, document in documents.items():
                client.log_text(
                    run_id,
                    json.dumps(document, indent=1, sort_keys=True),
                    f"rollback/v{version}/{name}",
                )
        except MlflowException as exc:
            raise StorageError(
                f"cannot keep the reports ({exc})", where=f"{model_name} v{version}"
            ) from exc

    def move(
        self,
        model_name: str,
        version: int,
        to_level: str,
        *,
        expect_production: int | None,
        expect_canary: int | None,
        reason: str,
        cause: Cause | None = None,
    ) -> None:
        """Move a version by compare-and-set, as the controller asks for it.

        Production for a version that is not the canary is a rollback: the version that holds it
        goes, and this one comes back, in one transaction of the registry. Where the policy asks
        for the controller's signature, it is given first.
        """
        expect = {"production": expect_production, "canary": expect_canary}
        rolls_back = to_level == "production" and version != expect_canary
        if rolls_back and expect_production is not None:
            if self._signer is not None and self._approves_rollbacks(model_name):
                self.approve_rollback(
                    model_name,
                    restored=version,
                    replaced=expect_production,
                    signer=self._signer,
                    reason=reason,
                    now=datetime.now(UTC),
                )
            self.request_move(
                model_name,
                expect_production,
                "candidate",
                reason=reason,
                cause=cause,
                expect=expect,
                restore=version,
            )
            return
        self.request_move(model_name, version, to_level, reason=reason, cause=cause, expect=expect)

    def _approves_rollbacks(self, model_name: str) -> bool:
        family = self.model(model_name)["family"]
        return "controllers" in self.policy(family).trust.rollback_approvers
