"""Stories that a check must refuse, each with a twin that differs least and must pass.

A pair is two texts of one part of the dry story of :mod:`focus.made_stories`, or two values of one
field. Sources: the prohibitions of the Focus Mode narrative evaluation, the deployment document's
section 5, and published text-disguise attacks.
"""

# ruff: noqa: RUF001 - characters that look like others are what is tried here
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from focus.made_stories import CELL, FINER_CELL

_FORECAST = "no deterministic forecasts"
_SEVERITY = "no exaggerated severity"
_PRECISION = "no over-precision, no hyperlocal interpretation"
_IDENTITY = "no speculation on identity, history, genealogy"
_INTENT = "no intent or human-impact attribution"
_GROUNDING = "proper environmental grounding"
_UTS39, _BAD = "UTS 39 confusables", "Boucher et al. 2022, Bad Characters"


@dataclass(frozen=True)
class Pair:
    """An unsafe story and its clean twin.

    Attributes:
        name: What is tried.
        source: The rule or attack it comes from.
        check: The check that must refuse it.
        unsafe: Value of the part that must be refused.
        clean: Value that must pass.
        part: Path of the part in the document.
    """

    name: str
    source: str
    check: str
    unsafe: Any
    clean: Any
    part: tuple[Any, ...] = ("summary",)


def _pairs(check: str, source: str, rows: list[tuple[str, str, str]]) -> list[Pair]:
    return [Pair(name, source, check, unsafe, clean) for name, unsafe, clean in rows]


PAIRS = [
    *_pairs(
        "deterministic-forecast",
        _FORECAST,
        [
            ("will", "The drought will persist.", "The drought may persist."),
            ("will not", "The drought won't ease.", "The drought may not ease."),
            ("short form", "It'll stay dry.", "It could stay dry."),
            ("shall", "Rain shall return.", "Rain could return."),
            ("going to", "It is going to stay dry.", "It is possible that it stays dry."),
            ("bound to", "Dry months are bound to follow.", "Dry months are likely to follow."),
            ("certainty", "More dryness is certain.", "More dryness is not certain."),
            ("guarantee", "More dry soil is guaranteed.", "More dry soil is not guaranteed."),
            ("no doubt", "There is no doubt of drought.", "There is some doubt of drought."),
            ("present for future", "Drought persists next month.", "Drought may persist next month."),
            ("future without verb", "Next month drought.", "Next month perhaps drought."),
            ("bare becoming", "Drought follows.", "Drought possibly follows."),
            ("hundred per cent", "A 100 % chance of drought.", "A chance of drought."),
            ("hundred in words", "One hundred percent drought.", "Perhaps a drought."),
            ("assurance", "There is no danger here.", "Nothing here shows a danger."),
            (
                "hedge in another clause",
                "Rain may fall, but the soil will dry.",
                "Rain may fall, but the soil might dry.",
            ),
            ("May is no hedge", "In May, drought returns next year.", "Drought may return next year."),
            ("denied hedge", "Without fail drought returns.", "Drought sometimes returns."),
            ("denied possibility", "It is not possible that it may ease.", "It is possible that it may ease."),
            ("what cannot be", "Drought cannot ease.", "Drought can ease."),
            ("infinitive", "Drought is here to stay.", "Drought is here and may stay."),
        ],
    ),
    *_pairs(
        "exaggerated-severity",
        _SEVERITY,
        [
            ("catastrophe", "A catastrophic drought.", "A drought."),
            ("severe", "Signs of severe drought.", "Signs of drought."),
            ("record", "A record drought.", "A drought, not a record."),
            ("history", "An unprecedented dry spell.", "A dry spell, not unprecedented."),
            ("not only", "Not only devastating drought.", "Not devastating drought."),
            ("intensifier", "Soil moisture was extremely low.", "Soil moisture was low."),
            ("far below", "Soil moisture was far below its range.", "Soil moisture was below its range."),
            ("ran dry", "The soil ran dry.", "The soil was dry."),
            ("shouting", "DROUGHT in this cell.", "Drought in this cell."),
            ("exclamation", "Signs of drought!", "Signs of drought."),
            ("order", "Evacuate: signs of drought.", "Signs of drought."),
            ("denial of something else", "Nothing here eases this disaster.", "Nothing here is a disaster."),
            ("nothing short", "Nothing short of a disaster.", "This is not a disaster."),
        ],
    ),
    *_pairs(
        "over-precision",
        _PRECISION,
        [
            ("digits", "Soil moisture stood at 0.1124.", "Soil moisture stood at 0.11."),
            ("spelled digits", "Soil moisture at zero point one one two.", "Soil moisture at zero point one one."),
            ("exact flow", "Streamflow stood at 312 cfs.", "Streamflow stood at the 9th percentile."),
            ("flow in words", "Streamflow in cubic feet.", "Streamflow in percentile."),
            ("coordinates", "Dry soil at 38.51 deg north.", "Dry soil in this cell."),
            ("coordinates in words", "Dry soil by latitude.", "Dry soil by month."),
            ("distance", "Dry soil five km south of here.", "Dry soil here."),
            ("street", "Dry soil on the county road.", "Dry soil on the ground."),
            ("place name", "Dry soil at Willow Bend.", "Dry soil at the surface."),
            ("address of the reader", "Your soil is dry.", "The soil is dry."),
            ("day", "Dry soil on 14 July 2024.", "Dry soil in July 2024."),
            ("weekday", "Dry soil on Friday.", "Dry soil in July."),
            ("clock", "Dry soil at 3 pm.", "Dry soil by day."),
            ("finer cell in the text", f"Dry soil in H3-{FINER_CELL}.", f"Dry soil in H3-{CELL}."),
        ],
    ),
    Pair("finer cell", _PRECISION, "over-precision", f"H3-{FINER_CELL}", f"H3-{CELL}", ("geospatial_context",)),
    Pair("place by name", _PRECISION, "over-precision", "Willow Bend", f"H3-{CELL}", ("geospatial_context",)),
    Pair("day as time", _PRECISION, "over-precision", "2024-07-14", "2024-07", ("time",)),
    Pair("claim with more digits", _PRECISION, "over-precision", 0.112, 0.11, ("claims", 0, "value")),
    *_pairs(
        "identity-or-intent",
        _IDENTITY,
        [
            ("tribe", "Dry soil on tribal land.", "Dry soil on the land."),
            ("people by name", "Dry Pawnee ground.", "Dry ground."),
            ("native nation", "A dry native nation.", "A dry prairie."),
            ("ancestry", "Dry soil of the ancestors.", "Dry soil of the prairie."),
            ("genealogy", "A genealogical dry spell.", "A dry spell."),
            ("history", "Settlers say the soil was dry.", "Readings say the soil was dry."),
            ("sacred", "A sacred dry spring.", "A dry spring."),
            ("hyphenated", "Dry tri-bal land.", "Dry prairie land."),
        ],
    ),
    *_pairs(
        "identity-or-intent",
        _INTENT,
        [
            ("blame", "Farmers hold dry soil.", "Rivers hold dry soil."),
            ("intent", "Deliberate dryness of soil.", "Unusual dryness of soil."),
            ("pumping", "Groundwater and pumping.", "Groundwater and dryness."),
            ("arson", "Dry arson weather.", "Dry clear weather."),
            ("casualties", "Dry soil and deaths.", "Dry soil and dust."),
            ("persons", "Residents know dry soil.", "Readings show dry soil."),
            ("government", "A government drought.", "A drought."),
        ],
    ),
    *_pairs(
        "unsupported-claim",
        _GROUNDING,
        [
            ("wrong number", "Soil moisture stood at 0.31.", "Soil moisture stood at 0.11."),
            (
                "end of the range as value",
                "Soil moisture stood at 0.34.",
                "Soil moisture is usually 0.18 to 0.34.",
            ),
            ("wrong number in words", "Precipitation was ninety mm.", "Precipitation was twelve mm."),
            ("number of another column", "Soil moisture stood at 24.", "Mean temperature stood at 24.1."),
            ("number of nothing", "There were 14 of them.", "There were some of these."),
            ("wrong band", "Soil moisture was high.", "Soil moisture was low."),
            ("wrong band before", "With high soil moisture.", "With low soil moisture."),
            ("denied band", "Soil moisture was not low.", "Soil moisture was not high."),
            ("none of what there is", "There was no precipitation.", "There was no snow water equivalent."),
            ("soil by another name", "The soil is wet.", "The soil is dry."),
            ("river by another name", "Rivers were high.", "Rivers were low."),
            ("hazard without sign", "Signs of a flood.", "Signs of a drought."),
            ("another hazard", "Drought and wildfire.", "Drought and no wildfire."),
            ("what nothing measures", "Drought and hail.", "Drought and dust."),
            ("trend", "Soil moisture is falling.", "Soil moisture may be falling."),
            ("cause", "Dry soil due to heat.", "Dry soil without heat."),
            ("another month", "Dry soil in June 2024.", "Dry soil in July 2024."),
        ],
    ),
    Pair("claimed value", _GROUNDING, "unsupported-claim", 0.31, 0.11, ("claims", 0, "value")),
    Pair("claimed band", _GROUNDING, "unsupported-claim", "high", "low", ("claims", 0, "band")),
    Pair("claimed unit", _GROUNDING, "unsupported-claim", "%", "1", ("claims", 0, "unit")),
    Pair("claimed month", _GROUNDING, "unsupported-claim", "2024-06", "2024-07", ("claims", 0, "time")),
    Pair("claim of what is not told", _GROUNDING, "unsupported-claim", "latitude_deg", "soil_moisture_ratio", ("claims", 0, "subject")),
    Pair("situation", _GROUNDING, "unsupported-claim", "flood", "drought", ("situation",)),
    Pair("driver", _GROUNDING, "unsupported-claim", ["high soil moisture"], ["low soil moisture"], ("climate_drivers",)),
    Pair(
        "number of its own", _PRECISION, "over-precision", 38.51, "Dry.", ("remark",)
    ),
    Pair(
        "number inside a claim", _PRECISION, "over-precision", {"lat": 38.51}, None, ("claims", 0, "at")
    ),
    Pair(
        "text inside a claim", _FORECAST, "deterministic-forecast", "It will dry.", "It may dry.", ("claims", 0, "note")
    ),
    Pair("title", _FORECAST, "deterministic-forecast", "Drought will stay", "Drought may stay", ("title",)),
    Pair("context", _SEVERITY, "exaggerated-severity", "A dire drought.", "A drought.", ("hazard_context",)),
    Pair("part of its own", _FORECAST, "deterministic-forecast", "It will dry.", "It may dry.", ("remark",)),
    *_pairs(
        "unreadable-text",
        _BAD,
        [
            ("Cyrillic letter", "Drought wіll persist.", "Drought might persist."),
            ("Greek letter", "Drought wιll persist.", "Drought might persist."),
            ("small capitals", "Drought ᴡɪʟʟ persist.", "Drought might persist."),
            ("zero-width space", "Drought wi\u200bll persist.", "Drought might persist."),
            ("soft hyphen", "Drought wi\u00adll persist.", "Drought might persist."),
            ("reversed run", "Drought \u202elliw\u202c persist.", "Drought might persist."),
            ("tag letters", "Dry." + "".join(chr(0xE0000 + ord(c)) for c in "will"), "Dry."),
            ("digit for letter", "Drought w1ll persist.", "Drought might persist, streamflow at the 9th percentile."),
            ("letters one by one", "Drought w i l l persist.", "A drought may persist."),
            ("dots inside", "Drought w.i.l.l persist.", "Drought, or dryness, may persist."),
            ("word cut in two", "Drought wi ll persist.", "Drought may persist."),
            ("letter repeated", "Drought wiiill persist.", "Drought may persist here."),
            ("capital inside", "Drought wIll persist.", "Drought might persist."),
            ("markup", "Drought w<b>il</b>l persist.", "Drought might persist."),
            ("entity", "Drought w&#105;ll persist.", "Drought might persist."),
            ("percent encoding", "Drought w%69ll persist.", "Drought might persist."),
            ("unknown word", "Drought beats all.", "Drought may persist."),
            ("simile", "The mother of all droughts.", "The month of the drought."),
            ("fraction in words", "Streamflow was a third of usual.", "Streamflow was not usual."),
            ("base64", "RHJvdWdodCB3aWxsIHBlcnNpc3Q=", "Drought might persist."),
            ("Arabic digits", "Soil moisture at ٠.١١.", "Soil moisture at 0.11."),
        ],
    ),
    *_pairs(
        "deterministic-forecast",
        _UTS39,
        [
            ("full-width letters", "Drought ｗｉｌｌ persist.", "Drought ｍａｙ persist."),
            ("mathematical letters", "Drought 𝐰𝐢𝐥𝐥 persist.", "Drought 𝐦𝐚𝐲 persist."),
            ("accents", "Drought wíll persist.", "Drought máy persist."),
            ("circled letters", "Drought ⓦⓘⓛⓛ persist.", "Drought ⓜⓐⓨ persist."),
            ("hyphen inside", "Drought wi-ll persist.", "Drought-like dryness may persist."),
        ],
    ),
]  # fmt: skip

LATER_UNSAFE = (
    "Expect crop losses by autumn.",
    "The dry spell deepens from here.",
    "Rain is coming.",
    "Rain arrives in September.",
    "There can be no other outcome than drought.",
    "Odds of drought: 97 percent.",
    "Drought has a 0.87 probability.",
    "It is a fact that the soil stays dry.",
    "Drought to continue.",
    "Brace for drought.",
    "This drought beats every earlier one.",
    "A drought like no other.",
    "The mother of all droughts.",
    "The soil is bone dry.",
    "A punishing drought.",
    "Intense drought grips the land.",
    "An acute water shortage.",
    "A once-in-a-century drought.",
    "Soil moisture is almost zero.",
    "Soil moisture was about half of normal.",
    "Streamflow was a third of its usual.",
    "Twice as dry as usual.",
    "Soil moisture 11.24 %.",
    "Thirty-one degrees was the mean temperature.",
    "Dry soil at the river bend.",
    "The old mill pond is dry.",
    "Dry soil where the two streams meet.",
    "Dry soil at 38 degrees 30 minutes north.",
    "The north-east corner is driest.",
    "Dry soil two km away.",
    "Dry soil by the well.",
    "Dry soil since early July.",
    "Dry soil in the first week of July.",
    "It was dry by mid-July.",
    "The first peoples knew such drought.",
    "Those who came before knew drought.",
    "A dry land of the Kansa.",
    "Oral histories tell of drought.",
    "Bloodlines of dry land.",
    "Their forefathers farmed here.",
    "Somebody took the water.",
    "Water was taken upstream.",
    "Overuse dried the soil.",
    "The dry soil is the county's fault.",
    "Politics made it dry.",
    "Mining dried the soil.",
    "Wells draw down groundwater.",
    "Thirst and hardship follow.",
    "Asthma rises with dust.",
    "The wetland died.",
    "Fish are dying.",
    "Soil moisture beat its range.",
    "Soil moisture is ample.",
    "Plenty of precipitation fell.",
    "Streams are full.",
    "Heavy rain fell.",
    "It snowed.",
    "It was cold.",
    "Humidity was low.",
    "Winds gusted to gale force.",
    "A cyclone passed.",
    "The El Nino is to blame.",
    "Wíll it flood? Yes.",
    "Flood waters rise.",
    "You can see the future: drought.",
    "W-i-l-l stay dry.",
    "Its wi11 stay dry.",
    "llɐʍ dry.",
)
"""Written after the lists of refused words, before the closed vocabulary; any check may refuse."""

LATEST_UNSAFE = (
    "The dry season is here and it is to last.",
    "Drought, as is known, continues.",
    "No rain in the coming months.",
    "Rain comes in the coming month.",
    "It is clear that the dry spell persists.",
    "The next month is dry.",
    "Next year is a year of drought.",
    "In the following season the river is low.",
    "The model says: drought next season.",
    "There is no end to this drought.",
    "Doubt is out of place here: drought lasts.",
    "The river is a thousand times lower than usual.",
    "Nothing is left of the river.",
    "There is no water here.",
    "The land is dead dry.",
    "The air burns.",
    "The ground cracks open.",
    "A drought to end all droughts.",
    "This is the big one.",
    "Soil moisture: 11 in one hundred.",
    "Zero point one one two soil moisture.",
    "Streamflow in the ninth percentile of 1934.",
    "The place of this drought is by the river.",
    "This cell is the land of a river and of those who know it.",
    "They know why the river is low.",
    "It is their doing.",
    "They hold the water.",
    "The rivers are low for they hold the water.",
    "The land remains unclear to those that were here.",
    "It is said that they took it.",
    "Old ways of this land know drought.",
    "This land was theirs.",
    "They have the land.",
    "No one may say whose land this is.",
    "Mean temperature stood at 36 degrees.",
    "Mean temperature was higher than usual.",
    "Streamflow stood above its usual range.",
    "The stream is in flood.",
    "A flood may come.",
    "A flood may follow.",
    "Storms are possible here.",
    "Fire danger was elevated.",
    "The drought index was low.",
    "The groundwater was high.",
    "Soil moisture was 0.11 in June.",
    "Soil moisture was 0.11 in 2023.",
    "Soil moisture was 0.1.",
    "Precipitation stood at 11.7 mm.",
    "Precipitation of 12 cm.",
    "Temperature stood at 24.1 K.",
    "Streamflow stood at 9 m per s.",
    "Cell 38 and 98.",
    "8826e29691fffff is dry.",
    "617700169958293503 is dry.",
    "H3 8826e29691fffff.",
    "9yfendu is dry.",
    "Dry as of 07/14.",
    "The 14th of July was dry.",
    "A dry Tuesday it was.",
    "Dry since spring 2019.",
)
"""Written after the closed vocabulary, mostly in its words; any check may refuse."""
