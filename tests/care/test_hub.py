"""Regions from a Local Contexts Hub: a recorded server on loopback, and what is made of its answers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h3
import pytest
from care.made_regions import NOW, box
from click.testing import CliRunner

from kfm_mlflow.care.geojson import parse_regions
from kfm_mlflow.care.hub import build_regions, fetch_document
from kfm_mlflow.care.regions import load_regions
from kfm_mlflow.cli.care import care
from kfm_mlflow.errors import DataError, InputError, StorageError
from kfm_mlflow.metadata.schemas import schema_problems

KEY = "synthetic-key"
ID = "3dbf5acc-0000-4000-8000-a13c14ef0001"
LABEL = {
    "unique_id": "9c1b2d00-0000-4000-8000-000000000001",
    "name": "TK Culturally Sensitive (CS)",
    "label_type": "culturally_sensitive",
    "language_tag": "en",
    "language": "English",
    "label_text": "Please ask before you use this.",
    "img_url": "https://example.invalid/cs.png",
    "svg_url": "https://example.invalid/cs.svg",
    "audiofile": None,
    "community": "Example Community",
    "translations": [],
    "created": "2024-01-05T18:18:17.078138Z",
    "updated": "2024-01-05T18:18:17.078194Z",
}
# Fields and nesting of the Hub's own serialisers, API v2; every value is made up.
PROJECT = {
    "unique_id": ID,
    "external_ids": {"providers_id": None, "publication_doi": None, "project_data_guid": None},
    "source_project_uuid": None,
    "project_page": f"https://example.invalid/projects/{ID}",
    "title": "Synthetic Project",
    "description": "Made up.",
    "project_type": "Samples",
    "project_contact": {"name": "A. Person", "email": "person@example.invalid"},
    "urls": [],
    "project_privacy": "Public",
    "date_added": "2024-01-05T18:18:17.078138Z",
    "date_modified": "2024-01-06T18:18:17.078194Z",
    "created_by": [
        {"researcher": {"id": 1, "name": "A. Person", "profile_url": "", "orcid": None}}
    ],
    "contributors": {"institutions": [], "communities": [], "researchers": [], "others": []},
    "bc_labels": [],
    "tk_labels": [LABEL],
    "sub_projects": [],
    "related_projects": [],
    "project_boundary_geojson": {
        "type": "Feature",
        "properties": {},
        "geometry": box(-98.0, 38.0, -97.8, 38.2),
    },
}


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub's views do: 401 without a key, 404 for a project there is not."""

    def do_GET(self):
        """Answer one request."""
        path = self.path.removeprefix("/api/v2/projects")
        if self.headers.get("X-Api-Key") != KEY:
            self._answer(401, {"detail": "Invalid API key."})
        elif path == f"/{ID}/":
            self._answer(200, PROJECT)
        elif path.startswith("/multi/"):
            self._answer(200, [PROJECT, {**PROJECT, "unique_id": "other", "tk_labels": []}])
        elif path == "/moved/":
            self._answer(302, {}, Location=f"/api/v2/projects/{ID}/")
        elif path == "/huge/":
            self._answer(200, "x" * (17 * 2**20))
        else:
            self._answer(404, {"detail": "Not found."})

    def _answer(self, status, value, **headers):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """Say nothing."""


@pytest.fixture(scope="module")
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api/v2/projects"
        server.shutdown()


def regions_of(value, **options):
    data = json.dumps(value).encode()
    return parse_regions(build_regions(data, where="p", salt="00", **options), where="p").regions


def test_a_project_becomes_a_region_with_its_labels_verbatim(hub, tmp_path):
    output = tmp_path / "regions.geojson"
    done = CliRunner(env={"LOCAL_CONTEXTS_API_KEY": KEY}).invoke(
        care, ["regions", "import", f"{hub}/{ID}/", "-o", str(output)]
    )
    assert done.exit_code == 0, done.output
    assert "no finer than r5, consent unknown, 1 labels" in done.output
    (region,) = load_regions(output).regions
    assert (region.id, region.name) == (f"local-contexts-{ID}", "Synthetic Project")
    assert (region.authority, region.consent.status) == ("Example Community", "unknown")
    assert region.labels == (LABEL["name"],)
    assert region.label_records[0].unique_id == LABEL["unique_id"]
    assert region.label_records[0].text == LABEL["label_text"]
    assert region.rule_at(NOW).ceiling == 5
    assert region.touches(h3.latlng_to_cell(38.1, -97.9, 9))
    written = json.loads(output.read_bytes())
    assert schema_problems("regions", written) == []
    assert "person@example.invalid" not in output.read_text()
    assert output.stat().st_mode & 0o077 == 0


def test_what_the_hub_refuses_says_what_to_do(hub):
    for path, key, reason in (
        (f"/{ID}/", None, "answers 401; give the Hub's API key"),
        ("/none/", KEY, "answers 404; check the project's unique id"),
        ("/moved/", KEY, "answers 302"),
        ("/huge/", KEY, "is larger than"),
    ):
        with pytest.raises(StorageError, match=reason) as caught:
            fetch_document(hub + path, api_key=key)
        assert KEY not in str(caught.value)


def test_nobody_answers():
    with pytest.raises(StorageError, match=r"gives no answer \(ConnectionError\)"):
        fetch_document("http://127.0.0.1:1/x", timeout_s=1)


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_only_https_is_fetched_from_elsewhere(url):
    with pytest.raises(InputError, match="is not an https URL"):
        fetch_document(url)


def test_several_projects_become_several_regions(hub):
    data = fetch_document(f"{hub}/multi/{ID},other/", api_key=KEY)
    regions = parse_regions(build_regions(data, where="p", salt="00"), where="p").regions
    assert [region.authority for region in regions] == ["Example Community", None]
    assert regions[1].rule_at(NOW).ceiling == 3


def test_a_label_type_that_the_hub_adds_tomorrow_withholds():
    tomorrow = {**PROJECT, "tk_labels": [{**LABEL, "label_type": "moon_restricted"}]}
    (region,) = regions_of(tomorrow)
    assert region.rule_at(NOW).is_withheld


def test_a_notice_is_kept_and_gives_no_authority():
    notice = {"notice_type": "traditional_knowledge", "name": "TK Notice", "default_text": "x"}
    project = {k: v for k, v in PROJECT.items() if k not in {"bc_labels", "tk_labels"}}
    data = json.dumps({**project, "notice": [notice]}).encode()
    written = json.loads(build_regions(data, where="p", salt="00"))
    properties = written["features"][0]["properties"]
    assert properties["local_contexts_notices"] == [
        {"notice_type": "traditional_knowledge", "name": "TK Notice"}
    ]
    assert "authority" not in properties


SQUARE, NEXT = box(-98, 38, -97.8, 38.2), box(-97.9, 38.1, -97.7, 38.3)


@pytest.mark.parametrize(
    "boundary",
    [
        {"type": "GeometryCollection", "geometries": [SQUARE, NEXT]},
        {
            "type": "FeatureCollection",
            "features": [
                {"type": "Feature", "properties": {}, "geometry": g} for g in (SQUARE, NEXT)
            ],
        },
        json.dumps({"type": "GeometryCollection", "geometries": [SQUARE, NEXT]}),
    ],
)
def test_every_area_of_a_boundary_counts(boundary):
    (region,) = regions_of({**PROJECT, "project_boundary_geojson": boundary})
    assert region.shape.area == pytest.approx(0.04 + 0.04 - 0.01)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({**PROJECT, "project_boundary_geojson": None}, "project_boundary_geojson: is empty; ask"),
        ({**PROJECT, "project_boundary_geojson": {}}, "project_boundary_geojson: is empty"),
        ({**PROJECT, "project_boundary_geojson": "{"}, "project_boundary_geojson: not valid JSON"),
        (
            {**PROJECT, "project_boundary_geojson": {"type": "Point", "coordinates": [0, 0]}},
            f"p: project {ID}: project_boundary_geojson: is not a Polygon",
        ),
        ({**PROJECT, "tk_labels": "x"}, "tk_labels: is not a list of objects"),
        ({**PROJECT, "tk_labels": [{}]}, "label 0: has neither name nor label_type"),
        ({"detail": "Not found."}, "neither a Local Contexts Hub project nor a GeoJSON"),
        ([], "holds no features"),
        ("x", "neither a Local Contexts Hub project"),
        ({"type": "FeatureCollection", "features": []}, "holds no features"),
        ({"type": "FeatureCollection", "features": [1]}, "feature 0: lacks properties"),
    ],
)
def test_what_is_no_region_is_refused_with_its_project(value, reason):
    with pytest.raises(DataError, match=reason):
        regions_of(value)


def test_a_boundary_file_keeps_what_it_says_to_us_and_takes_names_from_where_you_say():
    value = {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {"GEOID": 7, "NAME": "A", "k_min": 4, "label": "x"},
                "geometry": SQUARE,
            }
        ],
    }
    (region,) = regions_of(value, id_property="GEOID", name_property="NAME", authority="Council")
    assert (region.id, region.name, region.k_min) == ("7", "A", 4)
    assert region.authority == "Council"


def test_an_import_overwrites_no_file_and_reads_one(tmp_path):
    source, output = tmp_path / "p.json", tmp_path / "r.geojson"
    source.write_text(json.dumps(PROJECT))
    runner = CliRunner()
    arguments = ["regions", "import", str(source), "-o", str(output)]
    assert runner.invoke(care, arguments).exit_code == 0
    again = runner.invoke(care, arguments)
    assert isinstance(again.exception, InputError)
    shown = runner.invoke(care, ["regions", "show", str(output)])
    assert "no finer than r5" in shown.output


def test_the_packaged_regions_say_that_they_are_illustrative():
    shown = CliRunner().invoke(care, ["regions", "show"])
    assert "illustrative boxes, no boundaries; load authoritative ones with" in shown.output
