"""What may be said of a solution: one of four outcomes, the reason, and what it cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from candling.evidence.solution import Outcome, Site, ThreeWay
from candling.report import numerals
from candling.techniques.propose import Proposal, Seen
from candling.techniques.verify.agreement import Agreement, Rivalry

AGREES, CONFIDENT = 0.95, 0.98
"""Held-out agreement that a program needs, on all inputs and on the half of which the network is surer."""
READABLE = 60.0
"""Bits."""
_COLLAPSED, _LEARNED, _MEMORISED = 0.98, 0.9, 0.15
_NEARER = 0.01


@dataclass(frozen=True, eq=False)
class Found:
    """All that the outcome rests on."""

    best: Proposal | None
    compared: Agreement | None
    seen: Seen
    logits: Tensor
    """Of the verifying inputs."""
    parts: Sequence[ThreeWay]
    site: Site | None


def outcome(found: Found) -> tuple[Outcome, str]:
    """The verdict and one sentence of why."""
    nothing = _learned_nothing(found)
    if nothing:
        return "did not learn a program", nothing
    best, compared = found.best, found.compared
    if best is None or compared is None:
        return "not solved", "no program of the grammar was proposed"
    fails = behaviour_fails(best, compared)
    if fails:
        return "not solved", fails
    if found.site is None or not found.site.passed:
        why = found.site.reason if found.site else "no site before the last non-linearity was found"
        return "behaviour only", f"the program says what the network answers; {why}"
    return "solved", f"the program says what the network answers, and {found.site.reason}"


def _learned_nothing(found: Found) -> str | None:
    answers = found.logits.argmax(1).numpy()
    commonest = np.bincount(answers).max() / len(answers)
    if commonest >= _COLLAPSED:
        return f"collapsed: it gives one answer to {numerals.percent(float(commonest))} of the inputs"
    truth = {part.part: part.network_truth for part in found.parts if part.network_truth is not None}
    trained, unseen = truth.get("trained on"), truth.get("not trained on")
    if trained is None or unseen is None:
        return None
    if trained.value >= _LEARNED and unseen.high < trained.low - _MEMORISED:
        return (
            f"memorised: right on {numerals.percent(trained.value)} of what it was trained on, "
            f"on {numerals.percent(unseen.value)} of other inputs"
        )
    return None


def behaviour_fails(best: Proposal, compared: Agreement) -> str | None:
    """What the program's account of the answers lacks; None if nothing."""
    agreed, sure = (numerals.percent(each.value) for each in (compared.agreement, compared.confident))
    if compared.agreement.value < AGREES:
        return f"the best program agrees on {agreed} of held-out inputs, {AGREES:.0%} is asked"
    if compared.confident.value < CONFIDENT:
        return f"where the network is sure the program agrees on {sure}, {CONFIDENT:.0%} is asked"
    if best.bits > READABLE:
        return f"the program takes {best.bits:.0f} bits; above {READABLE:.0f} it is a table, not an account"
    standing = [each.name for each in compared.rivals if each.refuted is False and not each.fitted]
    if standing:
        return f"where it differs from a rival the network does not side with it: {standing[0]}"
    nearer = [each for each in compared.rivals if each.fitted and each.refuted is False and _nearer(each, compared)]
    if nearer:
        return f"a fitted model comes nearer to the network: {nearer[0].name}"
    return None


def _nearer(fitted: Rivalry, compared: Agreement) -> bool:
    """By more than a point: a rule that is itself linear, say, is met by a fitted linear model but for the edges."""
    return fitted.agreement.value > compared.agreement.value + _NEARER


def limits(found: Found) -> list[str]:
    """What it cannot say."""
    said = [
        "A rule outside the grammar is not found, however simple it is; the program is the shortest of those tried.",
        "Agreement is measured on the inputs that were given; elsewhere network and program may part.",
    ]
    untold = [each.name for each in found.compared.rivals if each.refuted is None] if found.compared else []
    if untold:
        said.append(f"Too few inputs tell the program apart from: {'; '.join(untold[:3])}.")
    if found.site is None:
        said.append("That a program says what a network answers does not show that the network computes it that way.")
    return said
