"""Claims observed again: which of them, and whether each holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from candling.errors import InputError
from candling.evidence.claim import Claim, Replayed
from candling.runs.jobs import Progress


def chosen(claims: Sequence[Claim], wanted: str | None) -> list[Claim]:
    """All, or the one with this id. Raises InputError where there is none."""
    found = [claim for claim in claims if wanted in (None, claim.id)]
    if wanted is not None and not found:
        raise InputError("claim", f"no claim {wanted!r}: this run has {', '.join(c.id for c in claims)}")
    return found


def observe_again(claims: Sequence[Claim], observe: Callable[[Claim], float], progress: Progress) -> list[Replayed]:
    """Six digits of what is observed, as a record holds them, beside what was predicted."""
    results: list[Replayed] = []
    progress("replaying", 0, len(claims))
    for claim in claims:
        observed = float(f"{observe(claim):.6g}")
        holds = abs(observed - claim.predicted) <= claim.tolerance
        results.append(Replayed(claim=claim, observed=observed, holds=holds))
        progress("replaying", len(results), len(claims))
    return results
