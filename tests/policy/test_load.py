from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.errors import PolicyError
from kfm_mlflow.policy.levels import (
    ALIASES,
    STAGES,
    Level,
    level_of,
    level_of_alias,
    level_of_stage,
)
from kfm_mlflow.policy.lint import lint_policy
from kfm_mlflow.policy.load import load_policies, load_policy, parse_policy
from kfm_mlflow.policy.models import Policy


def parse(text: str, folder: Path = Path()) -> object:
    return parse_policy(text, where="p.yaml", folder=folder)


def test_packaged_policies_load_and_trust_nobody() -> None:
    found = load_policies(None).policies
    assert {"climate", "baseline"} <= set(found)
    for policy in found.values():
        notes = lint_policy(policy, datetime.now(UTC))
        assert any("signers is empty" in note for note in notes)
        assert any("validators is empty" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (
            "schema_version: '1'\nextends: climate\ngates: {metrics: {limts: []}}",
            "gates.metrics.limts",
        ),
        ("schema_version: '1'\nextends: climate\nsurprise: 1", "p.yaml: surprise"),
        ("schema_version: '1'\nextends: nowhere", "p.yaml: extends"),
        ("schema_version: '2'\nextends: climate", "schema_version"),
        (
            "schema_version: '1'\nextends: climate\nlevels: {staging: [integrity, nonsense]}",
            "'nonsense' is no gate",
        ),
        ("schema_version: '1'\nextends: climate\nlevels: {production: []}", "levels.production"),
        (
            "schema_version: '1'\nextends: climate\ngates: {metrics: {limits: [{metric: rmse}]}}",
            "give min, max or both",
        ),
        (
            "schema_version: '1'\nextends: climate\ngates: {metrics: {limits: [{metric: r, max: .nan}]}}",
            "limits.0.max",
        ),
        ("schema_version: '1'\nextends: climate\ngates: {care: {mode: warn}}", "gates.care.mode"),
        ("schema_version: '1'\nextends: climate\nrollout: {steps: []}", "rollout.steps"),
        ("schema_version: '1'\nextends: climate\ntrust: {signers: [{name: x}]}", "trust.signers.0"),
        (
            "schema_version: '1'\nextends: climate\ntrust: {signers: [{name: x, public_key_file: no.pub}]}",
            "no.pub",
        ),
        ("schema_version: '1'\nextends: climate\nregions_file: nowhere.geojson", "regions_file"),
        ("schema_version: '1'\nextends: climate\nregions_digest: 'sha256:0'", "regions_digest"),
        ("a: 1\na: 2", "appears twice"),
        ("- a", "must be a mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [true]", "not valid YAML"),
    ],
)
def test_a_wrong_policy_is_refused_by_file_and_field(text: str, field: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(text)
    assert "p.yaml" in str(caught.value) or field == "schema_version"
    assert field in str(caught.value)


def test_a_missing_gate_configuration_is_refused() -> None:
    raw = load_policies(None).policy("climate").model_dump(mode="json", by_alias=True)
    raw["gates"]["sbom"] = None
    with pytest.raises(PolicyError, match="gate 'sbom' is not configured"):
        parse(yaml.safe_dump(raw))


def test_an_overlay_changes_what_it_names_and_nothing_else(tmp_path) -> None:
    (tmp_path / "c.yaml").write_text(
        "schema_version: '1'\nextends: climate\ngates: {telemetry: {max_energy_wh: 5}}\n"
    )
    base, over = load_policies(None).policy("climate"), load_policy(tmp_path / "c.yaml")
    assert over.gates.telemetry is not None
    assert over.gates.telemetry.max_energy_wh == 5
    assert base.gates.telemetry is not None
    changed = over.model_copy(
        update={"gates": over.gates.model_copy(update={"telemetry": base.gates.telemetry})}
    )
    assert changed == base
    assert over.digest != base.digest


def test_two_files_for_one_family_are_refused(tmp_path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("schema_version: '1'\nextends: climate\n")
    with pytest.raises(PolicyError, match="defined twice"):
        load_policies(tmp_path)


def test_a_model_belongs_to_the_family_of_its_name() -> None:
    policies = load_policies(None)
    assert policies.family_of("climate-downscaler") == "climate"
    assert policies.family_of("anything") == "baseline"
    with pytest.raises(PolicyError, match="belongs to family 'climate'"):
        policies.family_of("climate-downscaler", "baseline")
    with pytest.raises(PolicyError, match="no policy for family"):
        policies.family_of("anything", "nonsense")


def test_every_level_reads_back_from_its_stage_and_aliases() -> None:
    for level in Level:
        assert level_of(STAGES.get(level), ALIASES[level]) is level
        for alias in ALIASES[level]:
            assert level_of_alias(alias) is level
            assert level_of_alias(alias.upper()) is level


@given(st.text())
def test_an_alias_of_no_level_is_nobodys_concern(alias: str) -> None:
    known = {name for names in ALIASES.values() for name in names}
    assert (level_of_alias(alias) is None) == (alias.lower() not in known)


@pytest.mark.parametrize(
    ("stage", "level"),
    [
        ("Production", Level.PRODUCTION),
        ("staging", Level.STAGING),
        ("Archived", Level.CANDIDATE),
        ("None", Level.CANDIDATE),
    ],
)
def test_a_stage_asks_for_its_level(stage: str, level: Level) -> None:
    assert level_of_stage(stage) is level


def test_the_digest_of_a_policy_covers_the_content_of_its_regions(tmp_path):
    regions = tmp_path / "regions.geojson"
    text = "schema_version: '1'\nextends: climate\nregions_file: regions.geojson"
    digests = set()
    for content in ("{}", "[]", "{}"):
        regions.write_text(content)
        digests.add(parse_policy(text, where="p", folder=tmp_path).digest)
    assert len(digests) == 2


def test_no_path_of_the_machine_is_in_a_policy_or_its_digest(tmp_path):
    found = []
    for folder in (tmp_path / "here", tmp_path / "there" / "deeper"):
        (folder / "p").mkdir(parents=True)
        (folder / "regions.geojson").write_text("{}")
        (folder / "a.pem").write_text("a key")
        (folder / "roots.pem").write_text("roots")
        (folder / "sigstore.json").write_text("{}")
        for name in ("../regions.geojson", str(folder / "regions.geojson")):
            text = f"""
schema_version: '1'
extends: climate
regions_file: {name}
trust:
  signers: [{{name: a, public_key_file: ../a.pem}}]
  certificate_signers: [{{name: b, roots_file: ../roots.pem, subject: "CN=b"}}]
  sigstore_signers:
  - {{name: c, identity: i, issuer: "https://i.test", trust_config_file: ../sigstore.json}}
"""
            found.append(parse_policy(text, where="p", folder=folder / "p"))
            assert found[-1].regions_path == folder / "regions.geojson"
    assert len({policy.digest for policy in found}) == 1
    written = found[0].model_dump_json()
    assert str(tmp_path) not in written
    assert "../" not in written
    assert found[0].model_copy(update={"models": ("x",)}).regions_path == found[0].regions_path


def test_a_policy_that_came_without_its_regions_never_falls_back_to_the_packaged_ones(tmp_path):
    (tmp_path / "regions.geojson").write_text("{}")
    text = "schema_version: '1'\nextends: climate\nregions_file: regions.geojson"
    sent = parse_policy(text, where="p", folder=tmp_path).model_dump(mode="json", by_alias=True)
    with pytest.raises(PolicyError, match="came without it"):
        _ = Policy.model_validate(sent).regions_path
