"""Finding names and places in text, in the many ways in which people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfm_mlflow.care.modes import MODES, is_known_mode, mode_resolution
from kfm_mlflow.care.passages import find_names, find_places, fold

NAMES = ["Blue Heron Spring", "Cimarrón Burial Ridge", "Ford 12", "Kiva"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The story turns at Cimarron burial-ridge.", "Cimarrón Burial Ridge"),
        ("Blue Heron Sprng flood", "Blue Heron Spring"),
        ("BLUE   HERON\nSPRING", "Blue Heron Spring"),
        ("xai/blue_heron_spring.json", "Blue Heron Spring"),
        ('{"site": "BlueHeronSpring"}', "Blue Heron Spring"),
        ("at Blueheron Spring", "Blue Heron Spring"),
        ("near ford 12, east", "Ford 12"),
        ("the kiva.", "Kiva"),
    ],
)
def test_name_is_found_however_it_is_written(text, found):
    assert find_names(text, NAMES) == [found]


@pytest.mark.parametrize(
    "text",
    [
        "Rain over Kansas",
        "",
        "a blue spring with a heron",
        "ford 13",
        "kivas of old",
        "12 0.5 1e-3 {}",
    ],
)
def test_other_text_is_clean(text):
    assert find_names(text, NAMES) == []


def test_punctuation_alone_is_no_name():
    assert find_names("anything --- at all", ["---", ""]) == []


@given(st.text(max_size=200))
def test_folding_twice_is_folding_once(text):
    assert fold(fold(text)) == fold(text)


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_name_is_found_wherever_it_stands(before, after):
    assert "Blue Heron Spring" in find_names(f"{before} Blue Heron Spring {after}", NAMES)


PLACE = (38.5123, -97.4432)


@pytest.mark.parametrize(
    "text",
    [
        "near 38.5123, -97.4432.",
        "at 38.5123 -97.4432 again",
        "(38.5123;-97.4432)",
        "[-97.4432, 38.5123]",
        '{"lat": 38.5123, "lon": -97.4432}',
        '{"longitude":-97.4432,"latitude":38.5123}',
        "lat=38.5123&lon=-97.4432",
        "38.5123N 97.4432W",
        "38.5123° N, 97.4432° W",
        "38.5123 n / 97.4432 w",
        "POINT (-97.4432 38.5123)",
        "38.5123, \u221297.4432",
        "38.5123, 262.5568",
        "2026-01-02 38.5123,-97.4432",
    ],
)
def test_place_is_found_however_it_is_written(text):
    found = [
        place
        for place in find_places(text)
        if (round(place.lat_deg, 4), round(place.lon_deg, 4)) == PLACE
    ]
    assert found
    assert found[0].precision_km == pytest.approx(0.011132)


@pytest.mark.parametrize(
    ("text", "precision_km"),
    [
        ("38°30'44\"N 97°26'36\"W", 111.32 / 3600),
        ("38° 30\u2032 44.5\u2033 N, 97° 26\u2032 36.5\u2033 W", 111.32 / 36000),
        ("38°30'N 97°26'W", 111.32 / 60),
    ],
)
def test_degrees_minutes_and_seconds_are_a_place(text, precision_km):
    (place,) = find_places(text)
    assert place.lat_deg == pytest.approx(38.51, abs=0.02)
    assert place.lon_deg == pytest.approx(-97.44, abs=0.02)
    assert place.precision_km == pytest.approx(precision_km)


@pytest.mark.parametrize("text", ["v38.5123.4 x97", "38.5123", "no numbers", "a38.5123b 97.4432c"])
def test_what_is_no_pair_is_no_place(text):
    assert not list(find_places(text))


# (38.5123, -97.4432) by pyproj/utm 0.9.0, mgrs 1.6.0, pygeohash 3.5.1 and openlocationcode 1.0.1.
@pytest.mark.parametrize(
    ("text", "error_deg", "precision_km"),
    [
        ("14S 635730 4263807", 1e-5, 0.001),
        ("14SPH3573063806", 2e-5, 0.001),
        ("9yfendun", 2e-4, 0.024),
        ("86C4GH64+WP", 1e-4, 0.0123),
        ("+38.5123-097.4432/", 1e-9, 0.0111),
        ("N 38° 30.738' W 97° 26.592'", 1e-9, 0.00186),
    ],
)
def test_codes_name_the_place_that_independent_tools_made_them_from(text, error_deg, precision_km):
    found = [p for p in find_places(text) if abs(p.lon_deg - PLACE[1]) <= error_deg]
    assert any(abs(p.lat_deg - PLACE[0]) <= error_deg for p in found)
    assert min(p.precision_km for p in found) == pytest.approx(precision_km, rel=0.1)


WORDS = st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=8)


@given(st.lists(WORDS, min_size=2, max_size=4), st.lists(WORDS, max_size=20), st.data())
def test_a_name_is_found_with_one_letter_left_out_and_wherever_it_is_split(words, others, data):
    joined = "".join(words)
    at = data.draw(st.integers(0, len(joined) - 1))
    cut = data.draw(st.integers(1, len(joined) - 1))
    text = f"{' '.join(others)} {joined[:cut]}-\n{joined[cut:]} {' '.join(others)}"
    assert find_names(text, [" ".join(words)])
    if len(joined) > 6:
        assert find_names(joined[:at] + joined[at + 1 :], [joined])


def test_public_terms_are_no_misspelling_and_exact_names_are_found_all_the_same():
    text = "great blue herons spring from the reeds"
    assert find_names(text, NAMES) == ["Blue Heron Spring"]
    assert find_names(text, NAMES, ["blue herons spring"]) == []
    assert find_names("Blue Heron Spring", NAMES, ["Blue Heron Spring"]) == ["Blue Heron Spring"]


def test_far_apart_numbers_are_no_pair():
    assert not list(find_places(f"38.5123 {'word ' * 20} -97.4432"))


@given(st.text(max_size=300))
def test_no_text_whatever_raises(text):
    assert all(abs(place.lat_deg) <= 90 for place in find_places(text))


def test_modes_are_ceilings_of_seven_and_numbers_speak_for_themselves():
    assert mode_resolution("h3-climate-generalized") == 7
    assert mode_resolution("h3_r5") == 5
    assert mode_resolution("h3_r16") is None
    assert mode_resolution("none_required") is None
    assert mode_resolution("h3-unheard-of-generalized") is None
    assert all(is_known_mode(mode) for mode in MODES)
    assert not is_known_mode("h3_r16")
