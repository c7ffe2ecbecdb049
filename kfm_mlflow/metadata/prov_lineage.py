"""The records of a lineage and their names: one class that adds them in a fixed order.

Names are short and made from what they name, so that PROV-N and Turtle need no escapes; what a
thing is really called stands in its attributes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kfm_mlflow.canonical import NAMESPACE
from kfm_mlflow.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prov.model import ProvDocument

    from kfm_mlflow.metadata.facts import AgentFact, DatasetFact, FileFact, ReleaseFact, RunFact

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_DIGEST_LENGTH = 12
_SPACES = ("agent", "code", "data", "file", "release", "run")


def _local(text: str) -> str:
    """Write text as a local name that PROV-N and Turtle need not escape."""
    return _UNSAFE.sub("-", text).strip("-") or "unnamed"


class Lineage:
    """Builds one document, record by record, in a fixed order."""

    def __init__(self, release: ReleaseFact, run: RunFact) -> None:
        from prov.model import ProvDocument

        self.release, self.run = release, run
        self.document: ProvDocument = ProvDocument()
        self.kfm = self.document.add_namespace("kfm", f"{NAMESPACE}ns#")
        self._spaces = {
            name: self.document.add_namespace(name, f"{NAMESPACE}{name}/") for name in _SPACES
        }
        self._given: set[str] = set()

    def name(self, space: str, text: str) -> Any:
        """Return the qualified name of a thing."""
        return self._spaces[space][_local(text)]

    def unique(self, space: str, text: str) -> Any:
        """Return a name that no other record of this document has.

        Raises:
            InputError: Another one is already called so.
        """
        name = self.name(space, text)
        if str(name) in self._given:
            raise InputError(f"two things are both called {name}", where="provenance")
        self._given.add(str(name))
        return name

    def activities(self) -> tuple[Any, Any]:
        """Add training (or importing) and composing, and return both.

        Raises:
            InputError: The release came before the run ended.
        """
        key = f"{self.release.model_name}-{self.release.release_version}"
        run, release = self.run, self.release
        if release.released_at < run.ended_at:
            raise InputError("released_at is before the run ended", where="release.released_at")
        parameters = {f"kfm:parameter-{_local(k)}": v for k, v in sorted(run.parameters.items())}
        described = {
            "prov:type": self.kfm[run.kind.capitalize()],
            "prov:label": run.entry_point,
            "kfm:seed": run.seed,
            **({"kfm:run_id": run.run_id} if run.run_id else {}),
            **parameters,
        }
        training = self.document.activity(
            self.name("run", f"{run.kind}-{run.run_id or key}"),
            run.started_at,
            run.ended_at,
            described,
        )
        composing = self.document.activity(
            self.name("run", f"composing-{key}"),
            run.ended_at,
            release.released_at,
            {"prov:type": self.kfm["Composing"]},
        )
        self.document.wasInformedBy(composing, training)
        return training, composing

    def code(self) -> Any:
        """Add the code as the plan that training followed."""
        from prov.model import PROV

        run = self.run
        known = {
            "kfm:git_commit": run.git_commit,
            "kfm:git_url": run.git_url,
            "kfm:environment_sha256": run.environment_lock_sha256,
        }
        described = {"prov:type": PROV["Plan"], "kfm:entry_point": run.entry_point}
        described.update({key: value for key, value in known.items() if value})
        return self.document.entity(
            self.name("code", f"{run.entry_point}-{run.git_commit or 'unversioned'}"), described
        )

    def dataset(self, fact: DatasetFact) -> Any:
        """Add a data set, named by role, name and digest."""
        digest = fact.sha256.removeprefix("sha256:")[:_DIGEST_LENGTH]
        return self.document.entity(
            self.unique("data", f"{fact.role}-{fact.name}-{digest}"),
            {
                "prov:type": self.kfm["Dataset"],
                "prov:label": fact.name,
                "kfm:role": fact.role,
                "kfm:uri": fact.uri,
                "kfm:license": fact.license,
                "kfm:sha256": fact.sha256,
                **({"kfm:selection": fact.selection} if fact.selection else {}),
            },
        )

    def file(self, fact: FileFact, kind: str) -> Any:
        """Add a file, named by path and digest."""
        return self.document.entity(
            self.unique("file", f"{fact.path}-{fact.sha256[7 : 7 + _DIGEST_LENGTH]}"),
            {
                "prov:type": self.kfm[kind],
                "prov:label": fact.path,
                "kfm:path": fact.path,
                "kfm:size_bytes": fact.size_bytes,
                "kfm:sha256": fact.sha256,
            },
        )

    def whole(self, version: str, kinds: Sequence[Any]) -> Any:
        """Add a release as a whole, this one or its predecessor."""
        name = self.release.model_name
        described = [("prov:type", kind) for kind in kinds]
        described += [("kfm:model_name", name), ("kfm:release_version", version)]
        return self.document.entity(self.unique("release", f"{name}-{version}"), described)

    def agents(self, facts: Sequence[AgentFact]) -> dict[str, Any]:
        """Add who is responsible and who acts for whom; return identifier -> agent.

        Raises:
            InputError: An agent acts for one that is not named, or for itself.
        """
        from prov.model import PROV

        kinds = {"person": "Person", "software": "SoftwareAgent", "organization": "Organization"}
        found = {
            fact.id: self.document.agent(
                self.unique("agent", fact.id),
                {
                    "prov:type": PROV[kinds[fact.kind]],
                    "prov:label": fact.name,
                    "kfm:id": fact.id,
                },
            )
            for fact in facts
        }
        for fact in facts:
            if fact.on_behalf_of is None:
                continue
            if fact.on_behalf_of not in found or fact.on_behalf_of == fact.id:
                raise InputError(f"acts for {fact.on_behalf_of!r}, who is not named", where=fact.id)
            self.document.actedOnBehalfOf(found[fact.id], found[fact.on_behalf_of])
        return found
