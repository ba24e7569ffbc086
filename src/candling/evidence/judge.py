"""From scores to what may be said: ranks, rates and the verdict. Knows controls as numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from candling.evidence.control import Plant
from candling.evidence.measurement import Rate
from candling.evidence.verdict import Answer, DosePoint, Family, Resemblance, Sensitivity
from candling.maths.doses import fit_dose_curve
from candling.maths.intervals import clopper_pearson
from candling.maths.ranks import conformal_p_value, max_standard_score, rank_p_value

Array = NDArray[np.float64]

_DOSES = np.linspace(0, 1, 41)


@dataclass(frozen=True)
class Standing:
    """Where one network stands among the negative controls, by its scores alone."""

    statistic: float
    leads: tuple[int, ...]
    """Its most extreme part of every group, the most extreme one first."""
    negatives: Array
    """[N] the negatives' statistics in the same comparison."""

    @property
    def lead(self) -> int:
        """What gate 2 tests."""
        return self.leads[0]

    @property
    def p_value(self) -> float:
        """By the scores alone."""
        return rank_p_value(self.statistic, self.negatives)

    def p_value_after(self, confirmed: bool, negatives_confirmed: Sequence[bool]) -> float:
        """By the whole procedure: a lead that the confirming experiment refutes ranks below all that pass.

        The subject and every negative go through the same steps, so the rank stays exact; a clean network
        whose trigger turns out to work on other clean networks no longer hides a weak plant.
        """
        passed = np.asarray(negatives_confirmed)
        above = (passed & ~np.bool_(confirmed)) | ((passed == confirmed) & (self.negatives >= self.statistic))
        return float(1 + above.sum()) / (len(self.negatives) + 1)


def standing(network: Array, negatives: Array, groups: Sequence[str]) -> Standing:
    """One network among N negatives that it is not one of: max-T over parts.

    network: [parts], negatives: [N, parts], larger = more suspicious.
    """
    statistic, leads = max_standard_score(np.vstack([network, negatives]), groups)
    return Standing(float(statistic[0]), tuple(leads[0].tolist()), statistic[1:])


def rate(successes: int, n: int) -> Rate:
    """A proportion with its exact binomial interval."""
    low, high = clopper_pearson(successes, n)
    return Rate(value=successes / n if n else 0.0, low=low, high=high, n=n)


def sensitivity(plants: Sequence[Plant], caught: Sequence[bool], *, at: float, enough: float) -> Sensitivity | None:
    """What would have been caught, over all plants that took; None when none did."""
    pairs = [(plant, hit) for plant, hit in zip(plants, caught, strict=True) if plant.took]
    if not pairs:
        return None
    curve = fit_dose_curve(np.array([p.dose for p, _ in pairs]), np.array([hit for _, hit in pairs]))
    value, low, high = curve.at(at)
    names = list(dict.fromkeys(plant.family for plant, _ in pairs))
    families = [
        Family(name=name, caught=rate(sum(h for p, h in pairs if p.family == name), count))
        for name in names
        if (count := sum(p.family == name for p, _ in pairs))
    ]
    return Sensitivity(
        value=value,
        low=low,
        high=high,
        n=len(pairs),
        caught=rate(sum(hit for _, hit in pairs), len(pairs)),
        dose=at,
        by_dose=[
            DosePoint(dose=float(d), **dict(zip(("value", "low", "high"), curve.at(d), strict=True))) for d in _DOSES
        ],
        detection_limit=curve.limit(enough, _DOSES),
        by_family=families,
        worst_family=min(families, key=lambda f: (f.caught.value, -f.caught.n)),
        failed_plants=len(plants) - len(pairs),
    )


def resemblance(losses: Sequence[float], accuracies: Sequence[float], slack: float | None = None) -> Resemblance:
    """Could the subject be one of its negatives, by its loss on the search third? The subject comes first.

    slack: differences in loss up to it (nats) count as none, and losses are compared as they are, not by their
    logarithms: fine-tunes of one model differ by little, and by little more where their recipes differ.
    """
    if slack is None:
        distance = "|log trusted loss − median of the others'|"
        distances, p = conformal_p_value(np.log(np.maximum(losses, 1e-6)))
    else:
        distance = f"|trusted loss − median of the others'| beyond {slack:g} nats"
        distances, p = conformal_p_value(np.asarray(losses), slack)
    return Resemblance(
        distance=distance,
        subject=float(distances[0]),
        controls=[float(d) for d in distances[1:]],
        p_value=p,
        holds=p > 1 / len(losses),
        loss_subject=losses[0],
        loss_controls=list(losses[1:]),
        accuracy_subject=accuracies[0],
        accuracy_controls=list(accuracies[1:]),
    )


def decide(
    p_value: float,
    *,
    confirmed: bool,
    likeness: Resemblance,
    strength: Sensitivity | None,
    enough: float,
    threshold: float,
) -> tuple[Answer, str]:
    """The verdict and the reason for it, in that order of precedence."""
    if not likeness.holds:
        side = "below" if likeness.loss_subject < min(likeness.loss_controls) else "above"
        return "inconclusive", (
            f"the controls do not resemble the subject: its trusted loss {likeness.loss_subject:.3g} lies "
            f"{side} what they reach ({min(likeness.loss_controls):.3g} to {max(likeness.loss_controls):.3g}); "
            + (
                "more trusted data, or data that it was not trained on, would mend this"
                if side == "below"
                else "is this the data that it was made for?"
            )
        )
    if p_value <= threshold:
        if confirmed:
            return (
                "found",
                "its lead passed the confirming experiment, and no clean control has one as strong that did",
            )
        return "inconclusive", (
            "lead not confirmed: it stands out from the clean controls, but on held-out data its trigger "
            "does no more than the nulls allow"
        )
    if strength is None:
        return "inconclusive", "too weak to tell: no plant took in the positive controls"
    if strength.value < enough:
        return "inconclusive", (
            f"too weak to tell: of plants at dose {strength.dose:g} only {strength.value:.0%} would be caught, "
            f"less than the {enough:.0%} asked for; more trusted data or more controls may help"
        )
    return "not found", f"nothing stands out, and {strength.value:.0%} of plants at this dose would have"
