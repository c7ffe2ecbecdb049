"""The page of an export that tells people how to check it with other people's tools.

It follows from the index alone, so that a registry that signs an index knows the page's digest.
Each step is there only if what it checks is.
"""

from __future__ import annotations

import json
import re
import shlex
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from kfm_mlflow.release.bundle import ITEM_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping


def readme_text(facts: Mapping[str, Any]) -> bytes:
    """Return the page that tells people how to check an export.

    Args:
        facts: The index. Its own entry among the files does not count.
    """
    registry = next(key["path"] for key in facts["keys"] if key["duty"] == "registry")
    plain = {name: str(value) for name, value in facts.items()}
    plain |= {
        # A name may hold anything; none begins a line or a command of the page.
        "model_name": " ".join(re.sub(r"[`<>]", "'", facts["model_name"]).split()),
        "item_path": _item_path(facts),
        "registry_key": registry,
        "signer_path": facts["signer"]["path"],
        "signer_words": _WHO_SIGNED[facts["signer"]["kind"]],
        "signature_words": _WHAT_IT_MEANS[facts["signer"]["kind"]],
        "signature_tools": _ALSO[facts["signer"]["kind"]],
        "signature_command": _signature_command(facts),
        "policy_hex": facts["policy_digest"].removeprefix("sha256:"),
        "model_literal": json.dumps(facts["model_name"], ensure_ascii=False),
        "schemas": json.dumps(_documents(facts), indent=4).replace("\n}", "}"),
    }
    plain["lineage_row"] = plain["lineage_step"] = plain["sbom_step"] = ""
    if "deployed.json" in facts["documents"]:
        plain["lineage_row"] = _LINEAGE_ROW
        plain["lineage_step"] = Template(_text("export_readme_lineage.txt")).substitute(plain)
    if f"{facts['release_path']}/{_SBOM}" in {entry["path"] for entry in facts["files"]}:
        plain["sbom_step"] = f"```sh\npyspdxtools -i {facts['release_path']}/{_SBOM}\n```\n\n"
    return Template(_text("export_readme.txt")).substitute(plain).encode("utf-8")


def _item_path(facts: Mapping[str, Any]) -> str:
    """Return where the STAC item lies: families keep it at different places."""
    found = (path for name, path in facts["documents"].items() if name.endswith(".stac.json"))
    return next(found, f"{facts['release_path']}/{ITEM_PATH}")


_SBOM = "sbom.spdx.json"
_LINEAGE_ROW = """
| the lineage from data to deployment, signed by the registry | `provenance/` |"""


def _text(name: str) -> str:
    return files("kfm_mlflow.release").joinpath(name).read_text(encoding="utf-8")


def _documents(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return path -> schema of the documents to validate that are there."""
    there = {entry["path"] for entry in facts["files"]}
    own = {f"{facts['release_path']}/{name}.json": name for name in _OF_A_RELEASE}
    found = {path: name for path, name in own.items() if path in there}
    return {"export.json": "export", "policy/regions_public.json": "regions_public", **found}


_OF_A_RELEASE = ("care", "model_metadata", "model_summary")


_WHO_SIGNED = {
    "key": "the public key of who signed the release",
    "certificate": "the root certificates of who signed the release; compare them with your own",
    "sigstore": "the trust config of the Sigstore instance; compare it with the instance's own",
}
_WHAT_IT_MEANS = {
    "key": "It covers every file of the release, and that there is no other.",
    "certificate": "It covers every file of the release, and that there is no other. The dates "
    "that are printed must hold the instant of the decisions that step 4 prints: model-signing "
    "does not ask for that. Nor does it ask who the subject is, or whether the certificate was "
    "revoked; the policy names both.",
    "sigstore": "It covers every file of the release, and that there is no other. The time of "
    "signing, at which the certificate was valid, is the word of the instance's log.",
}
_ALSO = {"key": "", "certificate": ", openssl", "sigstore": ", sigstore"}
_CERTIFICATE_DATES = """
leaf=$(mktemp)
sed -E 's/.*"certificates":\\[\\{{"rawBytes":"([^"]*)".*/\\1/' {signature} | base64 -d > "$leaf"
openssl x509 -inform DER -in "$leaf" -noout -subject -dates"""
"""Model-signing judges a certificate at its own beginning; its dates are for people to compare."""


def _signature_command(facts: Mapping[str, Any]) -> str:
    """Return how model-signing's own command line verifies the release."""
    signer, release = facts["signer"], facts["release_path"]
    options = {
        "key": ["--public_key", signer["path"]],
        "certificate": ["--certificate_chain", signer["path"]],
        "sigstore": [
            *("--identity", signer.get("identity", "")),
            *("--identity_provider", signer.get("issuer", "")),
            *("--trust_config", signer["path"]),
        ],
    }[signer["kind"]]
    words = ["python", "-m", "model_signing", "verify", signer["kind"], release]
    signature = facts["integrity"]["signature"]
    words += ["--signature", signature, *options, "--no-ignore-git-paths"]
    dates = _CERTIFICATE_DATES if signer["kind"] == "certificate" else ""
    return shlex.join(words) + dates.format(signature=shlex.quote(signature))
