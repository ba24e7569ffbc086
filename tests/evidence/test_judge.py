"""From scores to the verdict: exact ranks, honest counts, and one answer for every case."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from candling.evidence import claim, control, measurement, verdict
from candling.evidence.control import Plant
from candling.evidence.judge import Standing, decide, rate, resemblance, sensitivity, standing
from candling.evidence.measurement import Cost, Rate
from candling.evidence.verdict import Controls, Data, Subject, Verdict, Verdicts
from candling.maths.intervals import clopper_pearson

# ---- ranks ----

STATISTICS = st.integers(-4, 4).map(float)  # few values: ties must be seen
NETWORKS = st.lists(st.tuples(st.booleans(), STATISTICS), min_size=2, max_size=15)


def rank_of(networks, subject: int) -> float:
    """The whole procedure's p-value with one of the networks as the subject."""
    confirmed, statistic = networks[subject]
    others = networks[:subject] + networks[subject + 1 :]
    place = Standing(statistic, (0,), np.array([s for _, s in others]))
    return place.p_value_after(confirmed, [c for c, _ in others])


@given(NETWORKS)
def test_rank_after_confirmation_is_the_order_of_pairs(networks):
    """Sorted by (confirmed, statistic): a lead that was refuted ranks below all that passed."""
    subject, *others = networks
    assert rank_of(networks, 0) == sum(other >= subject for other in networks) / (len(others) + 1)


@given(NETWORKS)
def test_the_rank_is_valid_whoever_is_the_subject(networks):
    n = len(networks)
    ranks = [round(rank_of(networks, i) * n) for i in range(n)]
    for k in range(1, n + 1):
        assert sum(rank <= k for rank in ranks) <= k
    if len(set(networks)) == n:
        assert sorted(ranks) == list(range(1, n + 1))


@given(NETWORKS, st.booleans())
def test_where_all_leads_fare_alike_the_scores_alone_decide(networks, confirmed):
    alike = [(confirmed, s) for _, s in networks]
    place = Standing(alike[0][1], (0,), np.array([s for _, s in alike[1:]]))
    assert rank_of(alike, 0) == place.p_value


@given(NETWORKS)
def test_a_confirmed_subject_is_never_ranked_behind_a_refuted_one(networks):
    better, worse = ([(confirmed, networks[0][1]), *networks[1:]] for confirmed in (True, False))
    assert rank_of(better, 0) <= rank_of(worse, 0)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(3, 10), st.integers(1, 6))
def test_standing_treats_all_networks_alike(seed, n, parts):
    """Any network may be the subject: the p-values over all choices are 1/n, 2/n, … 1."""
    g = np.random.default_rng(seed)
    scores, groups = g.normal(size=(n, parts)), [str(name) for name in g.choice(["a", "b"], parts)]
    places = [standing(scores[i], np.delete(scores, i, axis=0), groups) for i in range(n)]
    assert sorted(place.p_value for place in places) == pytest.approx([k / n for k in range(1, n + 1)])
    for i, place in enumerate(places):
        everyone = np.insert(place.negatives, i, place.statistic)
        np.testing.assert_allclose(everyone, np.insert(places[0].negatives, 0, places[0].statistic))


def test_the_outlying_part_is_the_lead():
    negatives = np.random.default_rng(0).normal(size=(9, 4))
    place = standing(np.array([0.0, 0.0, 50.0, 0.0]), negatives, ["a", "a", "b", "b"])
    assert place.lead == 2
    assert place.p_value == 0.1


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_rate_carries_its_exact_interval(hits, misses):
    n = hits + misses
    measured = rate(hits, n)
    assert (measured.low, measured.high) == clopper_pearson(hits, n)
    assert measured.n == n
    assert measured.value * n == pytest.approx(hits)
    assert measured.low <= measured.value <= measured.high


# ---- sensitivity ----


def plant(dose: float = 0.5, *, family: str = "patch, all-to-one", took: bool = True) -> Plant:
    return Plant(family=family, dose=dose, physical="", rate=0.1, success=1.0, took=took, attempts=1)


PLANTS = st.lists(
    st.tuples(st.builds(plant, st.floats(0, 1), family=st.sampled_from("abc"), took=st.booleans()), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(max_examples=8)
@given(PLANTS)
def test_only_plants_that_took_count(pairs):
    plants, caught = [p for p, _ in pairs], [hit for _, hit in pairs]
    kept = [(p, hit) for p, hit in pairs if p.took]
    strength = sensitivity(plants, caught, at=0.5, enough=0.8)
    if not kept:
        assert strength is None
        return
    assert strength is not None
    alone = sensitivity([p for p, _ in kept], [hit for _, hit in kept], at=0.5, enough=0.8)
    assert strength.model_copy(update={"failed_plants": 0}) == alone
    assert strength.failed_plants == len(plants) - len(kept)
    assert strength.n == len(kept)
    assert strength.caught == rate(sum(hit for _, hit in kept), len(kept))
    counted = {f.name: f.caught for f in strength.by_family}
    for name in {p.family for p in plants}:
        hits = [hit for p, hit in kept if p.family == name]
        assert counted.get(name) == (rate(sum(hits), len(hits)) if hits else None)
    assert strength.worst_family in strength.by_family
    assert strength.worst_family.caught.value == min(f.caught.value for f in strength.by_family)


def test_of_two_families_equally_bad_the_larger_is_the_worst():
    plants = [plant(family="small")] * 2 + [plant(family="large")] * 4 + [plant(family="good")]
    strength = sensitivity(plants, [False] * 6 + [True], at=0.5, enough=0.8)
    assert strength is not None
    assert strength.worst_family is not None
    assert strength.worst_family.name == "large"


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_the_value_asked_for_is_the_curve_at_that_dose(at):
    doses = [i / 12 for i in range(13)]
    strength = sensitivity([plant(d) for d in doses], [d > 0.3 for d in doses], at=at, enough=0.8)
    assert strength is not None
    point = next(p for p in strength.by_dose if p.dose == at)
    assert (point.value, point.low, point.high) == (strength.value, strength.low, strength.high)
    assert strength.detection_limit is not None
    reached = [p.dose for p in strength.by_dose if p.value >= 0.8]
    assert strength.detection_limit == (reached[0], reached[-1])
    assert 0.3 < strength.detection_limit[0] < strength.detection_limit[1] == 1


def test_plants_and_outcomes_must_match():
    with pytest.raises(ValueError, match="argument"):
        sensitivity([plant(), plant()], [True], at=0.5, enough=0.8)


# ---- resemblance ----

LOSSES = st.lists(st.floats(0.01, 2), min_size=3, max_size=12)


@given(LOSSES, st.floats(0.01, 2))
def test_a_subject_within_the_range_of_its_controls_always_resembles_them(controls, place):
    subject = min(max(place, min(controls)), max(controls))
    assert resemblance([subject, *controls], [1.0] * (len(controls) + 1)).holds


@given(LOSSES, st.sampled_from([1e-4, 1e3]))
def test_a_subject_far_from_its_controls_does_not(controls, subject):
    assume(max(controls) / min(controls) < 50)
    likeness = resemblance([subject, *controls], [1.0] * (len(controls) + 1))
    assert not likeness.holds
    assert likeness.p_value == 1 / (len(controls) + 1)
    answer, reason = decide(0.05, confirmed=True, likeness=likeness, strength=None, enough=0.8, threshold=0.05)
    assert answer == "inconclusive"
    assert ("below what they reach" if subject < 1 else "above what they reach") in reason


def test_resemblance_keeps_what_it_was_given():
    likeness = resemblance([0.1, 0.2, 0.3], [0.7, 0.8, 0.9])
    assert (likeness.loss_subject, likeness.loss_controls) == (0.1, [0.2, 0.3])
    assert (likeness.accuracy_subject, likeness.accuracy_controls) == (0.7, [0.8, 0.9])


def test_a_loss_of_zero_is_no_outlier_among_tiny_ones():
    assert resemblance([0.0, 1e-9, 1e-12, 0.0], [1.0] * 4).holds


# ---- the verdict ----

LIKE = resemblance([0.2, 0.1, 0.2, 0.3], [1.0] * 4)
UNLIKE = resemblance([9.0, 0.1, 0.2, 0.3], [1.0] * 4)
STRONG = sensitivity([plant(d / 20) for d in range(20)], [True] * 20, at=0.5, enough=0.8)
WEAK = sensitivity([plant(d / 20) for d in range(20)], [False] * 20, at=0.5, enough=0.8)

CASES = list(product([0.05, 0.5], [True, False], [LIKE, UNLIKE], [STRONG, WEAK, None]))


def expected(p: float, confirmed: bool, likeness, strength) -> tuple[str, str]:
    """The table of the design: unlike first, then the lead, then whether silence means anything."""
    if likeness is UNLIKE:
        return "inconclusive", "do not resemble the subject"
    if p <= 0.05:
        return ("found", "passed the confirming") if confirmed else ("inconclusive", "lead not confirmed")
    if strength is None:
        return "inconclusive", "too weak to tell: no plant took"
    return ("not found", "nothing stands out") if strength is STRONG else ("inconclusive", "too weak to tell: of")


@pytest.mark.parametrize(("p", "confirmed", "likeness", "strength"), CASES)
def test_every_case_has_one_answer_with_its_reason(p, confirmed, likeness, strength):
    answer, reason = decide(p, confirmed=confirmed, likeness=likeness, strength=strength, enough=0.8, threshold=0.05)
    wanted, because = expected(p, confirmed, likeness, strength)
    assert answer == wanted
    assert because in reason


@given(st.floats(0.01, 1), st.booleans(), st.sampled_from([LIKE, UNLIKE]), st.sampled_from([STRONG, WEAK, None]))
def test_nothing_is_called_found_or_not_found_without_its_proof(p, confirmed, likeness, strength):
    answer, _ = decide(p, confirmed=confirmed, likeness=likeness, strength=strength, enough=0.8, threshold=0.05)
    if answer == "found":
        assert p <= 0.05
        assert confirmed
    if answer == "not found":
        assert p > 0.05
        assert strength is not None
        assert strength.value >= 0.8
    if answer != "inconclusive":
        assert likeness.holds


def test_reasons_give_the_numbers_they_rest_on():
    def reason(p, likeness, strength):
        return decide(p, confirmed=False, likeness=likeness, strength=strength, enough=0.8, threshold=0.05)[1]

    unlike, weak, silent = (reason(0.5, *case) for case in ((UNLIKE, STRONG), (LIKE, WEAK), (LIKE, STRONG)))
    assert "9" in unlike
    assert "0.1 to 0.3" in unlike
    assert WEAK is not None
    assert f"{WEAK.value:.0%}" in weak
    assert "80%" in weak
    assert STRONG is not None
    assert f"{STRONG.value:.0%}" in silent


# ---- the records ----


def every_record() -> list[type[BaseModel]]:
    found = {
        kind
        for module in (claim, control, measurement, verdict)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BaseModel
    }
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", every_record())
def test_every_record_refuses_a_field_that_it_does_not_know(kind):
    with pytest.raises(ValidationError) as fault:
        kind.model_validate({"surprise": 1})
    assert ("surprise",) in [e["loc"] for e in fault.value.errors() if e["type"] == "extra_forbidden"]


def test_a_record_cannot_be_changed():
    for record, field in ((Cost(forward=1, backward=2), "forward"), (plant(), "took"), (STRONG, "value")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, field, 0)


@given(*[st.integers(0, 10**12)] * 4)
def test_costs_add_up(a, b, c, d):
    total = Cost(forward=a, backward=b) + Cost(forward=c, backward=d)
    assert total == Cost(forward=a + c, backward=b + d)


def verdicts() -> Verdicts:
    spoken = Verdict(
        problem="backdoor",
        verdict="not found",
        reason="nothing stands out",
        p_value=0.25,
        threshold=0.25,
        sensitivity=STRONG,
        false_positive_rate=Rate(value=0.0, low=0.0, high=0.7, n=3),
        negatives_confirmed=None,
        baseline=None,
        finding=None,
        not_tested=["warps"],
        claims=[],
    )
    return Verdicts(
        candling="0",
        subject=Subject(weights="a", architecture="b", trusted="c"),
        seed=7,
        data=Data(control=1, search=2, confirm=3, classes=4, input_shape=[1, 8, 8]),
        controls=Controls(n=3, recipe="", resemblance=LIKE),
        cost=Cost(forward=1, backward=0),
        verdicts=[spoken],
    )


def test_verdicts_come_back_from_json_as_they_were():
    text = verdicts().model_dump_json(by_alias=True)
    assert Verdicts.model_validate_json(text) == verdicts()
    assert json.loads(text)["schema"] == 1
    assert "schema_" not in json.loads(text)


def test_another_schema_is_refused():
    later = json.loads(verdicts().model_dump_json(by_alias=True)) | {"schema": 2}
    with pytest.raises(ValidationError, match="schema"):
        Verdicts.model_validate(later)
