"""The words of stories: those that every story may use, and those that a check refuses, by why.

The first list is closed: a word on no list is one that the checks cannot judge, and a text with
such a word is refused. So a paraphrase that nobody thought of is refused too, and the lists of
refused words only say better why. ``*`` stands for any ending.
"""

from __future__ import annotations

import re
from functools import lru_cache

from kfm_mlflow.focus.columns import TOLD

PLAIN = """
a an the this that these those it its their there here which what whether both all each
any some none no not nor neither nothing one two three four five six seven eight nine ten eleven
twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty
seventy eighty ninety zero minus hundred thousand point as so such only also less more than of in on
at by for with without within into from to out per and or but if when while though although yet
is are was were be been has have had do does did can could may might cannot
stand stands stood stay stays reflect reflects point points show shows shown lie lies read reads
ease return recede continue persist persists last lessen break bring brings depend depends
depending know known say says tell tells told describe describes remain remains hold holds suggest
suggests indicate indicates compare compared fall
month months year years season seasons summer winter spring autumn day days period
january february march april may june july august september october november december kansas
cell place area land ground soil soils surface water waters river rivers stream streams rain rains
rainfall snowpack temperature groundwater moisture runoff streamflow
drought droughts dryness dry wet warm hot flood floods flooding storm storms stormy heat
fire fires wildfire wildfires spell weather hazard hazards danger fuel fuels dust prairie high-water
range ranges value values number numbers reading readings condition conditions sign signs
ordinary usual usually unusual normal average calm unsettled high higher low lower moderate above
below elevated little
model models input output observation observations outlook story evidence situation
percentile percent mm m cm km kg j s degc deg st nd rd th
very likely unlikely possible possibly possibility perhaps maybe probably probability chance chances
tend tends often sometimes rarely uncertain unknown unclear doubt clear clearly mixed consistent
taken together apart alone like kind following coming next future
"""
CERTAINTY = """
certain certainly certainty definite definitely guarantee guarantees guaranteed inevitable
inevitably inevitability unavoidable unavoidably undoubtedly unquestionably surely sure assuredly
imminent imminently always never impossible doomed destined unstoppable foregone
"""
BECOMING = """
follows arrives returns comes hits strikes begins starts continues persists lasts spreads worsens
intensifies ends breaks threatens looms awaits recedes eases stays remains coming
persist continue return follow recede ease stay
"""
SEVERITY = """
catastroph* cataclysm* calamit* disast* devastat* destroy* destruct* obliterat* annihilat* ravag*
decimat* apocalyp* doomsday armageddon biblical monstrous monster killer brutal* ferocious*
terrifying* terribl* horrif* horribl* nightmare* hell hellish ghastly dire grave gravely alarming*
shocking* staggering* crippling ruinous unprecedented record records historic historical* worst
unparalleled deadliest deadly lethal* fatal* threatening crisis crises emergenc* panic* evacuat*
flee fleeing severe severely extreme extremely extremes exceptional exceptionally massive massively
huge hugely enormous* vast vastly immense* dramatic* drastic* violent* violence rampant raging
furious* savage* relentless* plummet* plung* skyrocket* soar* collaps* parched scorch* inferno
deluge* ruin ruins ruined wreck* havoc wipe wipes wiped dead vanish* critical* dangerous* epic
explosive*
"""
PLACES = """
latitude* longitude* coordinate* geohash* postcode* zip address* street* avenue* highway* road*
lane lanes bridge* farm farms farmstead* ranch ranches house houses home homes parcel*
neighborhood* neighbourhood* creek* downstream upstream confluence* township* county counties town
towns city cities village* school* driveway* doorstep* backyard* your yours you exact exactly
precisely pinpoint* geolocat* landmark*
"""
TIMES = """
monday* tuesday* wednesday* thursday* friday* saturday* sunday* today tonight tomorrow yesterday
noon midnight midday dawn dusk hour hours hourly minute minutes o'clock
"""
IDENTITY = """
tribe tribes tribal* tribesman tribesmen indigenous* indigeneity aboriginal* ancest* forebear*
forefather* descended descendant* descendent* genealog* lineage* kinship bloodline* clan clans
ethnic* race races racial* religio* sacred* ceremon* burial* graves graveyard* ritual* heritage
cultur* tradition* reservation* homeland* treaty treaties settler* immigra* migrant* nomad*
chieftain* elder elders shaman* legend* folklore prayer* worship* spiritual* colonial*
potawatomi kaw kanza ioway iowas kickapoo* osage* pawnee* wichita* kiowa* comanche* cheyenne*
arapaho* shawnee* lenape wyandot* otoe* ponca* apache* lakota* sioux cherokee*
"""
PERSONS = """
they them theirs people people's peoples person persons resident* inhabitant* population*
landowner* landholder*
homeowner* owner* farmer* rancher* grower* irrigator* official officials authority authorities
government* council* agency agencies communit* family families household* children neighbor
neighbors neighbour neighbours locals villager* tenant* operator* company companies developer*
manager* activist* politician* he she him her his who whom whose someone somebody everyone
everybody anyone man men woman women human humans humanity mankind anthropogenic society camper*
hiker* smoker* victim* casualt* death deaths died dies kill* injur* displaced displacement lives
livelihood* hunger famine* poverty refugee*
"""
INTENT = """
blam* fault guilt* negligen* neglect* arson* deliberate* intent intention* intended purpose*
illegal* unlawful* mismanag* careless* reckless* sabotag* overpump* pumped pumping irrigat*
deforest* overgraz* manmade greed* wasted wasteful overuse* misuse* refus* chose chosen decided
motive* motivat* conspir* diverted drained stole stolen theft hoard* ignored ignoring vandal*
"""
TRENDS = """
rising rises rose risen falling fell fallen increas* decreas* declin* worsening worsened improving
improved growing grew dwindl* shrink* shrank receding warmer drier wetter cooler accelerat* trend*
"""
UNSEEN = """
tornado* twister* hail hailstorm* hailstone* lightning earthquake* landslide* avalanch* hurricane*
cyclone* tsunami* blizzard* locust* epidemic* pandemic* outbreak* disease* contaminat* pollut*
toxic* poison* crop crops yield yields harvest* livestock wildlife econom* price* jobs damage*
losses explosion* dam dams levee*
"""
CAUSES = """
because cause causes caused causing therefore hence consequently triggered explains explain prove
proves proof
"""

_LISTS = {
    name: words.split()
    for name, words in {
        "certainty": CERTAINTY,
        "becoming": BECOMING,
        "severity": SEVERITY,
        "places": PLACES,
        "times": TIMES,
        "identity": IDENTITY,
        "persons": PERSONS,
        "intent": INTENT,
        "trends": TRENDS,
        "unseen": UNSEEN,
        "causes": CAUSES,
    }.items()
}
_KNOWN = frozenset(PLAIN.split()) | {
    word for column in TOLD for word in re.findall("[a-z]+", column.label.lower())
}
_WHOLE = {
    name: frozenset(word for word in words if not word.endswith("*"))
    for name, words in _LISTS.items()
}
_STEMS = {
    name: tuple(word.rstrip("*") for word in words if word.endswith("*"))
    for name, words in _LISTS.items()
}


@lru_cache(maxsize=16_384)
def lists_of(word: str) -> tuple[str, ...]:
    """Return the lists that a word, in lower case, is on."""
    return tuple(name for name in _LISTS if word in _WHOLE[name] or word.startswith(_STEMS[name]))


@lru_cache(maxsize=16_384)
def is_known(word: str) -> bool:
    """Tell whether a word, in lower case, is on any list, so that the checks can judge it."""
    return word in _KNOWN or bool(lists_of(word))
