"""Leaks that a screening must catch and look-alikes that it must let pass, each with its source.

Places and names are made up. Sources: the rules of the data-generalisation documents (``C-F..``,
``S-F..``), the source documents' CARE sections, Local Contexts label types, and published
disclosure-control and text-disguise attacks.
"""

# ruff: noqa: RUF001 - characters that look like others are what is tried here
from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import h3

NAME = "Blue Heron Spring"
LAT, LON = 38.5123, -97.4432
KANSAS = [-102.05, 37.0, -94.6, 40.0]
GRID = {"bbox": KANSAS, "cell_size_deg": 0.25}
BLOCK: dict[str, Any] = {
    "masking": "h3-climate-generalized",
    "scope": "public-generalized",
    "notes": ["Generalised where regions ask for it."],
    "authority": "A council",
    "labels": ["TK A", "TK NC"],
    "h3_max_resolution": 7,
    "output_grid": GRID,
}
LICENCE = {"stac/model-item.json": {"properties": {"license": "CC-BY-NC-4.0"}}}
REGION: dict[str, Any] = {
    "id": "example-reserve",
    "name": "Willow Bend Reservation",
    "authority": "A council",
    "consent": {"status": "granted", "scope": "public-generalized", "expires": "2027-01-01"},
    "h3_max_resolution": 7,
    "k_min": 10,
    "labels": ["TK A", "TK NC"],
    "restricted_names": [NAME, "Cimarrón Burial Ridge", "Kiva", "Ford 12"],
}
RING = [[-98.0, 38.0], [-97.0, 38.0], [-97.0, 39.0], [-98.0, 39.0], [-98.0, 38.0]]


@dataclass(frozen=True)
class Case:
    """A release that differs from a clean one in one point.

    Attributes:
        name: What is tried.
        source: Where the attack or the rule comes from.
        check: The check that must catch it; empty for a clean release.
        texts: Path -> text, or a value that is written as JSON.
        care: Changes of the block.
        region: Changes of the region.
        claims: What the validator signed.
        earlier: What the release at Production publishes; None when there is none.
    """

    name: str
    source: str
    check: str = ""
    texts: dict[str, Any] = field(default_factory=dict)
    care: dict[str, Any] = field(default_factory=dict)
    region: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] | None = None
    earlier: dict[str, Any] | None = None


def _text(name: str, source: str, check: str, text: str, path: str = "notes.md") -> Case:
    return Case(name, source, check, {path: text})


_UTS39, _TROJAN = "UTS 39 confusables", "Boucher and Anderson 2021, Trojan Source"
_BAD_CHARS = "Boucher et al. 2022, Bad Characters"
_CF04, _SF01, _SF05 = "rule C-F04", "rule S-F01", "rule S-F05"
NAMES = [
    _text("plain name", _CF04, "restricted-names", f"Rain at {NAME}."),
    _text("upper case", _CF04, "restricted-names", "RAIN AT BLUE HERON SPRING"),
    _text("without accent", _CF04, "restricted-names", "the Cimarron Burial Ridge"),
    _text("decomposed accent", "UAX 15", "restricted-names", "Cimarro\u0301n Burial Ridge"),
    _text("camel case", _CF04, "restricted-names", '{"site": "nearBlueHeronSpring2"}'),
    _text("snake case in a path", _CF04, "restricted-names", "x", "xai/blue_heron_spring.md"),
    _text("letter left out", _CF04, "restricted-names", "Blue Heron Sprng"),
    _text("letters swapped", "Damerau 1964", "restricted-names", "Bleu Heron Spring"),
    _text("letter doubled", _CF04, "restricted-names", "Blue Herron Spring"),
    _text("over two lines", _CF04, "restricted-names", "Blue\n  Heron\n  Spring"),
    _text("hyphenated over a line", _CF04, "restricted-names", "Blue Her-\non Spring"),
    _text("spelled out", _CF04, "restricted-names", "B l u e  H e r o n  S p r i n g"),
    _text("short name spelled out", _CF04, "restricted-names", "at the K i v a again"),
    _text("Cyrillic look-alikes", _UTS39, "restricted-names", "Вlue Неrоn Ѕрrіng"),
    _text("mathematical letters", _UTS39, "restricted-names", "𝐁𝐥𝐮𝐞 𝐇𝐞𝐫𝐨𝐧 𝐒𝐩𝐫𝐢𝐧𝐠"),
    _text("full-width letters", "UAX 15", "restricted-names", "Ｂｌｕｅ Ｈｅｒｏｎ Ｓｐｒｉｎｇ"),
    _text("circled letters", "UAX 15", "restricted-names", "ⓑⓛⓤⓔ ⓗⓔⓡⓞⓝ ⓢⓟⓡⓘⓝⓖ"),
    _text("stroked letters", _UTS39, "restricted-names", "Błue Hɇrøn Spring"),
    _text("small capitals", _UTS39, "restricted-names", "ʙʟᴜᴇ ʜᴇʀᴏɴ ꜱᴘʀɪɴɢ"),
    _text("zero-width space", _BAD_CHARS, "restricted-names", "Blue He\u200bron Sp\u200bring"),
    _text("soft hyphen", _BAD_CHARS, "restricted-names", "Blue Her\u00adon Spring"),
    _text("combining joiner", _BAD_CHARS, "restricted-names", "Blue He\u034fron Spring"),
    _text("reversed run", _TROJAN, "restricted-names", "\u202egnirpS noreH eulB\u202c"),
    _text(
        "invisible tag letters",
        "Unicode tag smuggling, 2024",
        "restricted-names",
        "ok" + "".join(chr(0xE0000 + ord(c)) for c in " Blue Heron Spring"),
    ),
    _text("digits for letters", "leet spelling", "restricted-names", "B1u3 H3r0n 5pr1ng"),
    _text("JSON escapes", "RFC 8259, 7", "restricted-names", '{"a": "Blue H\\u0065ron\\nSpring"}'),
    _text("HTML entities", "HTML 5, 13.5", "restricted-names", "Blue &#72;eron&nbsp;Spring"),
    _text("markup inside", _CF04, "restricted-names", "Bl<b>ue</b> <i>Her</i>on Spring"),
    _text("percent encoding", "RFC 3986", "restricted-names", "?q=Blue%20Heron%20Spr%69ng"),
    _text(
        "base64",
        "RFC 4648",
        "restricted-names",
        base64.b64encode(b"at Blue Heron Spring!").decode(),
    ),
    _text(
        "over several values",
        _CF04,
        "restricted-names",
        '{"first": "Blue", "second": "Heron Spring"}',
    ),
    Case("name in the block", _CF04, "restricted-names", care={"notes": [f"Rain at {NAME}"]}),
]

_POINT = struct.pack("<BIdd", 1, 1, LON, LAT).hex()
_CELL9 = h3.latlng_to_cell(LAT, LON, 9)
PLACES = [
    _text("decimal pair", _SF01, "coordinates", f"at {LAT}, {LON}"),
    _text("GeoJSON position", "RFC 7946", "coordinates", f'{{"coordinates": [{LON}, {LAT}]}}'),
    _text("WKT", "OGC 06-103r4", "coordinates", f"POINT ({LON} {LAT})"),
    _text("WKB in hexadecimal", "OGC 06-103r4", "coordinates", _POINT),
    _text("geo URI", "RFC 5870", "coordinates", f"geo:{LAT},{LON};u=5"),
    _text("degrees, minutes, seconds", _SF01, "coordinates", "38°30'44.28\"N 97°26'35.52\"W"),
    _text("degrees and minutes", _SF01, "coordinates", "N 38° 30.738' W 97° 26.592'"),
    _text("colons", _SF01, "coordinates", "38:30:44N 97:26:36W"),
    _text("ISO 6709", "ISO 6709 annex H", "coordinates", "+38.5123-097.4432/"),
    _text("words for hemispheres", _SF01, "coordinates", "38.5123 degrees north, 97.4432 west"),
    _text("decimal commas", _SF01, "coordinates", "38,5123; -97,4432"),
    _text("scientific notation", _SF01, "coordinates", "3.85123e1, -9.74432e1"),
    _text("scaled integers", _SF01, "coordinates", '{"latE7": 385123000, "lonE7": -974432000}'),
    _text("longitude to 360", _SF01, "coordinates", "38.5123, 262.5568"),
    _text("minus sign of typography", _SF01, "coordinates", "38.5123, \u221297.4432"),
    _text("full-width digits", "UAX 15", "coordinates", "３８．５１２３, －９７．４４３２"),
    _text("Arabic digits", _UTS39, "coordinates", "٣٨.٥١٢٣, -٩٧.٤٤٣٢"),
    _text("zero-width in a number", _BAD_CHARS, "coordinates", "38.5\u200b123, -97.44\u200b32"),
    _text("markup between digits", _SF01, "coordinates", "<b>38.51</b>23, <i>-97</i>.4432"),
    _text("far apart in one object", _SF01, "coordinates",
          json.dumps({"lat": LAT, "story": "x" * 600, "lon": LON}), "a.json"),
    _text("parallel lists", _SF01, "coordinates",
          json.dumps({"lat": [LAT] * 40, "pad": "y" * 500, "lon": [LON] * 40}), "a.json"),
    _text("columns of a CSV", _SF01, "coordinates",
          f"id,latitude,note,longitude\n1,{LAT},{'z' * 60},{LON}\n", "a.csv"),
    _text("geohash", "Niemeyer 2008", "coordinates", "cell 9yfendun"),
    _text("plus code", "Open Location Code 1.0", "coordinates", "86C4GH64+WP"),
    _text("shortened plus code", "Open Location Code 1.0", "coordinates", "GH64+WP Willow Bend"),
    _text("UTM", "NGA.SIG.0012", "coordinates", "UTM 14N, 635730 mE, 4263807 mN"),
    _text("MGRS", "NGA.STND.0037", "coordinates", "14SPH3573063806"),
    _text("H3 index", _SF01, "coordinates", f"cell {_CELL9}"),
    _text("H3 index as a number", _SF01, "coordinates", str(int(_CELL9, 16))),
    _text("map tile", "OSM slippy map", "coordinates", "/tiles/16/15029/25188.png"),
    _text("link to a map", _SF01, "coordinates", f"https://maps.example/@{LAT},{LON},17z"),
]  # fmt: skip

_R5 = h3.latlng_to_cell(38.5, -97.5, 5)
_SIBLINGS = sorted(h3.cell_to_children(h3.cell_to_parent(_R5, 4), 5))
_OUT5 = h3.latlng_to_cell(37.3, -101.0, 5)


def _table(*rows: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {"out/cells.json": {"rows": list(rows), **beside}}


def _row(cell: str, count: Any, **more: Any) -> dict[str, Any]:
    return {"h3_cell": cell, "count": count, **more}


def _field(offset: float, slope: float = 1.0) -> dict[str, Any]:
    """Return a field that rises eastward, over a region's western border, by ``offset`` inside."""
    rows = []
    for cell in sorted(h3.grid_disk(h3.latlng_to_cell(38.5, -98.3, 5), 5)):
        lon = h3.cell_to_latlng(cell)[1]
        rows.append({"h3_cell": cell, "t_mean": slope * lon + offset * (lon > -98.15)})
    return {"out/field.json": rows}


_DENNING, _COX = "Denning 1979, trackers", "Cox 1980, complementary suppression"
TABLES = [
    Case("cell of three", "Sweeney 2002, k-anonymity", "disclosure", _table(_row(_R5, 3))),
    Case("cells finer than the ceiling", _SF01, "disclosure", _table(_row(_CELL9, 500))),
    Case("parent and child", "differencing, Dinur and Nissim 2003", "disclosure",
         _table(_row(_R5, 400), _row(h3.cell_to_parent(_R5, 4), 403))),
    Case("parent and child in two files", "differencing", "disclosure",
         {"a.json": [_row(_R5, 400)], "b.json": [_row(h3.cell_to_parent(_R5, 4), 402)]}),
    Case("two counts of a cell", _DENNING, "disclosure",
         {"all.json": [_row(_R5, 120)], "without.json": [_row(_R5, 118)]}),
    Case("one suppressed beside its total", _COX, "disclosure",
         _table(_row(_SIBLINGS[0], 50), _row(_R5, None), _row(_OUT5, 60), total=114)),
    Case("suppressed with a star in a CSV", _COX, "disclosure",
         {"t.csv": f"h3_cell,count\n{_R5},*\n{_OUT5},40\ntotal,44\n"}),
    Case("everybody alike", "Machanavajjhala 2007, homogeneity", "disclosure",
         _table(_row(_R5, 40, kinds={"burial": 40, "none": 0}))),
    Case("rare category", "Machanavajjhala 2007", "disclosure",
         _table(_row(_R5, 40, kinds={"burial": 2, "none": 38}))),
    Case("cells as keys", "Sweeney 2002", "disclosure", {"c.json": {_R5: 4, _OUT5: 90}}),
    Case("columns of a CSV with few", "Sweeney 2002", "disclosure",
         {"t.csv": f"h3_cell,n\n{_R5},2\n"}),
    Case("field that drops at the border", "climate deployment, section 5", "gradients",
         _field(-2.0)),
    Case("field that peaks inside", "climate deployment, section 5", "gradients", _field(4.0)),
]  # fmt: skip

_CHILDREN = sorted(h3.cell_to_children(_R5, 6))
_WANG, _BYUN = "Wang and Fung 2006, sequential releases", "Byun et al. 2006, incremental data"
_RELEASES = "differencing of two releases"


def _after(
    name: str, source: str, earlier: dict[str, Any], texts: dict[str, Any], **changed: Any
) -> Case:
    check = "" if source == "look-alike" else "differencing"
    return Case(name, source, check, texts, earlier=earlier, **changed)


def _means(*cells: str) -> dict[str, Any]:
    return _table(*({"h3_cell": cell, "t_mean": 11.5} for cell in cells))


_SIX = tuple(_row(cell, 60) for cell in _CHILDREN[:6])
_R5_OF_366, _R5_OF_380 = _table(_row(_R5, 366)), _table(_row(_R5, 380))
SUCCESSORS = [
    _after("three records came", _BYUN, _table(_row(_R5, 120)), _table(_row(_R5, 123))),
    _after("three records went", "Xiao and Tao 2007, m-invariance",
           _table(_row(_R5, 123)), _table(_row(_R5, 120))),
    _after("split cell with one child withheld", _RELEASES, _R5_OF_366, _table(*_SIX)),
    _after("merged cell that was split before", _RELEASES, _table(*_SIX), _R5_OF_366),
    _after("split cell with one child suppressed", _COX, _R5_OF_366,
           _table(*_SIX, _row(_CHILDREN[6], "*"))),
    _after("split over two files", _RELEASES, _R5_OF_366,
           {"north.json": list(_SIX[:3]), "south.json": list(_SIX[3:])}),
    _after("categories that move by two", _WANG,
           _table(_row(_R5, 40, kinds={"burial": 20, "none": 20})),
           _table(_row(_R5, 40, kinds={"burial": 22, "none": 18}))),
    _after("CSV after JSON", _BYUN, _table(_row(_R5, 120)),
           {"t.csv": f"h3_cell,n\n{_R5},124\n"}),
    _after("mean of the one child that was left out", "Duke-Williams and Rees 1998",
           _means(_R5), _means(*_CHILDREN[:6]),
           care={"masking": "h3_r5", "h3_max_resolution": 5}, region={"h3_max_resolution": 6}),
]  # fmt: skip
SUCCESSORS_CLEAN = [
    _after("exactly k records came", "look-alike", _table(_row(_R5, 120)), _table(_row(_R5, 130))),
    _after("the same table again", "look-alike", _R5_OF_366, _R5_OF_366),
    _after("split cell with a child of k withheld", "look-alike", _R5_OF_380, _table(*_SIX)),
    _after("split cell, nothing left", "look-alike", _R5_OF_366,
           _table(*_SIX[:5], _row(_CHILDREN[5], 40), _row(_CHILDREN[6], 26))),
    _after("three records came outside", "look-alike",
           _table(_row(_OUT5, 120)), _table(_row(_OUT5, 123))),
    _after("another place", "look-alike", _table(_row(_R5, 120)),
           _table(_row(_SIBLINGS[0] if _SIBLINGS[0] != _R5 else _SIBLINGS[1], 117))),
    _after("categories that move by ten", "look-alike",
           _table(_row(_R5, 60, kinds={"a": 30, "b": 30})),
           _table(_row(_R5, 60, kinds={"a": 40, "b": 20}))),
    _after("the mean of a cell changes", "look-alike", _means(_R5),
           _table({"h3_cell": _R5, "t_mean": 11.9})),
    _after("mean of a child as large as many cells", "look-alike", _means(_R5),
           _means(*_CHILDREN[:5])),
]  # fmt: skip

SPEECH = [
    _text("flood at a household", "focus deployment, section 5", "hazard-statements",
          "On the Willow Bend Reservation the model expects a flood at one household per year."),
    _text("tornado within a distance", "focus deployment, section 5", "hazard-statements",
          "Tornado tracks pass within 400 m of the school on the Willow Bend Reservation."),
    _text("hazard at fine resolution", "focus deployment, section 5", "hazard-statements",
          "Wildfire risk on tribal land is mapped at 30 m resolution."),
    _text("distance to a burial ground", "context notes 8.4, cultural-site proximity",
          "hazard-statements", "The well lies 200 m north of the burial ground."),
    _text("amplified hazard", "context notes 8.4, amplified hazard over tribal land",
          "hazard-statements",
          "Drought on the Willow Bend Reservation shows a higher risk than its surroundings."),
    _text("ceremony near a place", "context notes 8.4", "hazard-statements",
          "Ceremonies take place within 0.3 km of the river crossing."),
]  # fmt: skip

_LC = "Local Contexts label types"


def _label(kind: str, **care: Any) -> Case:
    return Case(
        f"label {kind}",
        _LC,
        "licence-scope",
        care={"labels": ["TK A", "TK NC", kind], **care},
        region={"labels": ["TK A", "TK NC", kind]},
    )


def _licence(spdx: str) -> dict[str, Any]:
    return {"stac/model-item.json": {"properties": {"license": spdx}}}


def _prov(*steps: tuple[str, str], **entities: dict[str, Any]) -> dict[str, Any]:
    """Return a lineage in which each step derives its first entity from its second."""
    release = {"prov:type": {"$": "kfm:Release", "type": "xsd:QName"}}
    return {
        "provenance/provenance.json": {
            "entity": {"release": release, **entities},
            "wasDerivedFrom": {
                f"_:{number}": {"prov:generatedEntity": made, "prov:usedEntity": used}
                for number, (made, used) in enumerate(steps)
            },
        }
    }


_CHAIN = tuple((f"e{n}", f"e{n + 1}") for n in range(30))
TERMS = [
    _label("community_use_only"),
    _label("men_restricted"),
    _label("women_restricted"),
    _label("TK SS"),
    _label("sworn_to_silence"),
    Case("culturally sensitive without consent", _LC, "licence-scope",
         care={"labels": ["TK A", "TK NC", "TK CS"]},
         region={"labels": ["TK A", "TK NC", "TK CS"], "consent": {"status": "unknown"}}),
    Case("commercial licence", _LC, "licence-scope", _licence("MIT")),
    Case("one of two licences is commercial", _LC, "licence-scope",
         _licence("CC-BY-NC-4.0 OR Apache-2.0")),
    Case("licence unknown", _LC, "licence-scope", _licence("NOASSERTION")),
    Case("commercial use intended", _LC, "licence-scope",
         {"model-card.json": {"fair_care": {"intended_uses": ["commercial crop insurance"]}}}),
    Case("label left out", "context notes 8.3, C-F03", "labels", care={"labels": ["TK A"]}),
    Case("label of an input not carried on", "context notes 8.4, no downgrade", "lineage",
         _prov(("release", "data"), data={"kfm:labels": ["TK CV"]})),
    Case("restricted input thirty steps back", "context notes 8.4, no downgrade", "lineage",
         _prov(("release", "e0"), *_CHAIN, e30={"kfm:scope": "restricted"})),
    Case("coarser input", "context notes 8.4, no downgrade", "lineage",
         _prov(("release", "data"), data={"kfm:h3_max_resolution": 5})),
    Case("restricted input through a loop", "context notes 8.4, no downgrade", "lineage",
         _prov(("release", "x"), ("x", "y"), ("y", "x"), y={"kfm:publication_class": "withheld"})),
    Case("non-commercial data, open licence", "context notes 8.4, no downgrade", "lineage",
         {**_prov(("release", "data"), data={"kfm:license": "CC-BY-NC-SA-4.0"}), **_licence("MIT")}),
]  # fmt: skip


def _signed(**care: Any) -> dict[str, Any]:
    return {"care": care}


_INVARIANT = {"max_change_ratio": 0.0, "restricted_input_count": 3, "sample_count": 32}
BLOCKS = [
    Case("no masking", "rule C-F01", "care-block", care={"masking": ""}),
    Case("no notes", "rule C-F01", "care-block", care={"notes": []}),
    Case("unknown scope", "rule C-F03", "care-block", care={"scope": "members-only"}),
    Case("unknown mode", "rule C-F03", "masking", care={"masking": "blur"}),
    Case("mode masks nothing", _SF01, "masking", care={"masking": "none_required"}),
    Case("declares too much", _SF01, "declared-resolution", care={"h3_max_resolution": 9}),
    Case("grid too fine", _SF01, "output-grid",
         care={"output_grid": {"bbox": KANSAS, "cell_size_deg": 0.01}}),
    Case("thin cells", _SF01, "output-grid",
         care={"output_grid": {"bbox": KANSAS, "cell_size_deg": [2.0, 0.001]}}),
    Case("grid unknown", "rule S-F02", "output-grid", care={"output_grid": None}),
    Case("consent withdrawn", "rule C-F05", "consent", region={"consent": {"status": "withdrawn"}}),
    Case("consent expired", "rule C-F05", "consent",
         region={"consent": {"status": "granted", "expires": "2026-01-01"}}),
    Case("nobody named to decide", "rule C-F02", "consent", region={"authority": None}),
    Case("sacred without consent", "context notes 8.2", "standing",
         care={"masking": "h3_r4", "h3_max_resolution": 4},
         region={"sensitivity": "sacred", "consent": {"status": "unknown"}}),
    Case("trained without consent", "rule C-F05", "training-consent",
         region={"consent": {"status": "denied"}},
         claims=_signed(training_rows={"example-reserve": 12})),
    Case("restricted inputs show", "Sundararajan 2017; permutation test", "attribution-leakage",
         claims=_signed(invariance={**_INVARIANT, "max_change_ratio": 0.148})),
    Case("invariance not a number", "trust notes 5.4", "attribution-leakage",
         claims=_signed(invariance={**_INVARIANT, "max_change_ratio": "NaN"})),
    Case("invariance of other regions", "trust notes 5.4", "attribution-leakage",
         claims={"care": {"invariance": _INVARIANT, "regions_digest": "sha256:" + "0" * 64}}),
]  # fmt: skip
LEAKS = [*NAMES, *PLACES, *TABLES, *SUCCESSORS, *SPEECH, *TERMS, *BLOCKS]


def _clean(name: str, text: str, path: str = "notes.md") -> Case:
    return Case(name, "look-alike", "", {path: text})


CLEAN = [
    Case("the clean release", "baseline"),
    _clean("the words in another order", "a blue spring with a heron"),
    _clean("words between", "blue herons in spring"),
    _clean("heron in spring", "a blue heron in spring"),
    _clean("plural of a short name", "kivas of old"),
    _clean("short name inside words", "a ski vacation in Akiva's village"),
    _clean("next number", "ford 13 and ford 21"),
    _clean("other spring", "Red Heron Well, Big Spring, Blue Rapids"),
    _clean("ridge", "the Cimarron river and its bluffs; Oak Ridge"),
    _clean("bird guide", "Great blue herons nest by the springs."),
    _clean("springs in Kansas", "Baxter Springs, Bonner Springs, Coffeyville"),
    _clean("burial in a data structure", "ridge regression buries outliers"),
    _clean("colour names", '{"colours": ["blue", "hero", "spruce"]}', "a.json"),
    _clean("Greek formulae", "α + β ≤ γ, Σ xᵢ, 10 µm, naïve café"),
    _clean("Russian sentence", "Весной над рекой летела цапля."),
    _clean("emoji", "rain 🌧 and wind 🌬 over the plains"),
    _clean("Arabic and Hebrew", "مطر و ريح; גשם ורוח"),
    _clean("soft hyphens", "pre\u00adcipi\u00adta\u00adtion and down\u00adscal\u00ading"),
    _clean("digest", "sha256:" + "8a2f" * 16),
    _clean("UUID", "run 3f2b8c9e-1d4a-4e6b-9c7d-2a5b8e1f4c6d"),
    _clean("commit", "git 5d41402abc4b2a76b9719d911017c592a1b2c3d4"),
    _clean("base64 of bytes", base64.b64encode(bytes(range(200))).decode()),
    _clean("base64 of prose", base64.b64encode(b"rain over the plains of Kansas").decode()),
    _clean("coarse pair", "around 38.5, -97.4"),
    _clean("whole degrees", "near 38 N, 97 W"),
    _clean("place elsewhere", "Paris is at 48.8566, 2.3522"),
    _clean("place in another state", "Denver, 39.7392, -104.9903"),
    _clean("Topeka", "Topeka lies at 39.0473, -95.6752"),
    _clean("one coordinate", "latitude 38.5123 only"),
    _clean("coordinates far apart", f"38.5123 {'rain ' * 100} -97.4432"),
    _clean("metrics", '{"rmse": 38.5123, "bias": 0.0044, "mae": 97.4432}', "m.json"),
    _clean("loss curve", "[0.97443, 0.385123, 0.2]", "c.json"),
    _clean("times", "2026-11-20T12:30:44Z to 12:38:30, 97.44 s"),
    _clean("versions", "v38.51.23, python 3.11.4, torch 2.13.0"),
    _clean("weights", "38.5123, 97.4432, -12.5, 0.001"),
    _clean("UTM elsewhere", "UTM 31N, 448252 mE, 5411935 mN"),
    _clean("MGRS elsewhere", "31UDQ4825211935"),
    _clean("geohash elsewhere", "geohash: u09tvw0f"),
    _clean("plus code elsewhere", "8FW4V75V+8Q"),
    _clean("tile of the whole state", "/tiles/5/7/12.png"),
    _clean("coarse H3 cell", f"cell {h3.latlng_to_cell(LAT, LON, 4)}"),
    _clean("fine H3 cell elsewhere", h3.latlng_to_cell(48.85, 2.35, 9)),
    _clean("arithmetic", "38+97 = 135; a+b; C++17"),
    _clean("serial numbers", "part 9B2X7Q, lot 86C4-114, ref GH64"),
    Case("cell of exactly k", "look-alike", "", _table(_row(_R5, 10))),
    Case("small cell outside", "look-alike", "", _table(_row(_OUT5, 1))),
    Case("siblings", "look-alike", "", _table(*(_row(c, 50) for c in _SIBLINGS))),
    Case("nested outside", "look-alike", "",
         _table(_row(_OUT5, 40), _row(h3.cell_to_parent(_OUT5, 3), 90))),
    Case("two counts far apart", "look-alike", "",
         {"all.json": [_row(_R5, 120)], "half.json": [_row(_R5, 60)]}),
    Case("same count twice", "look-alike", "",
         {"a.json": [_row(_R5, 120)], "b.json": [_row(_R5, 120)]}),
    Case("two suppressed", "look-alike", "",
         _table(_row(_SIBLINGS[0], None), _row(_R5, None), _row(_OUT5, 60), total=80)),
    Case("mixed categories", "look-alike", "", _table(_row(_R5, 40, kinds={"a": 22, "b": 18}))),
    Case("empty cell", "look-alike", "", _table(_row(_R5, 0))),
    Case("smooth field", "look-alike", "", _field(0.0)),
    Case("constant field", "look-alike", "", _field(0.0, slope=0.0)),
    _clean("flood depth", "The flood of 1951 was 2 m deep on the Willow Bend Reservation."),
    _clean("hazard over the region", "Drought is modelled over the Willow Bend Reservation."),
    _clean("fine resolution elsewhere", "Wildfire risk in Colorado is mapped at 30 m resolution."),
    _clean("fine input, no hazard", "Inputs on tribal land are coarsened from 30 m resolution."),
    _clean("policy on sacred sites", "Sacred sites are withheld from every output."),
    _clean("storm in general", "Storms move within 400 km of the coast each year."),
    _clean("heat units", "heat waves above 40 C, 3 days or more"),
    Case("attribution label", "look-alike", "", care={"labels": ["TK A", "TK NC", "BC P"]},
         region={"labels": ["TK A", "TK NC", "BC P"]}),
    Case("both licences non-commercial", "look-alike", "",
         _licence("CC-BY-NC-4.0 OR CC-BY-NC-SA-4.0")),
    Case("research intended", "look-alike", "",
         {"model-card.json": {"fair_care": {"intended_uses": ["non-commercial research"]}}}),
    Case("label of an input carried on", "look-alike", "",
         _prov(("release", "data"), data={"kfm:labels": ["TK A"]})),
    Case("restricted data that nothing came from", "look-alike", "",
         _prov(("release", "data"), data={}, other={"kfm:scope": "restricted"})),
    Case("finer input", "look-alike", "",
         _prov(("release", "data"), data={"kfm:h3_max_resolution": 9})),
    Case("coarser than asked", "look-alike", "", care={"masking": "h3_r5", "h3_max_resolution": 5}),
    Case("outputs elsewhere", "look-alike", "",
         care={"output_grid": {"bbox": [0.0, 0.0, 1.0, 1.0], "cell_size_deg": 0.001}},
         region={"consent": {"status": "denied"}}),
    Case("trained with consent", "look-alike", "",
         claims=_signed(training_rows={"example-reserve": 12})),
    Case("invariant", "look-alike", "", claims=_signed(invariance=_INVARIANT)),
    Case("nothing restricted in the inputs", "look-alike", "",
         claims=_signed(invariance={**_INVARIANT, "restricted_input_count": 0})),
    *SUCCESSORS_CLEAN,
]  # fmt: skip
