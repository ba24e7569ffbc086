"""The page that a customer reads: one HTML file, offline, drawn from the record alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray

from candling.errors import InputError
from candling.evidence.arrays import of_problem
from candling.evidence.control import NetworkRow, Networks, RunInfo
from candling.evidence.untrusted import FlaggedInputs, Group, Untrusted
from candling.evidence.verdict import Verdict, Verdicts
from candling.report import apart, groups, located, numerals, repair, sequence, texts, trigger, view, words
from candling.report.text import clip, visible

ROWS = 200
LISTED = 60
_LONGEST = 2000


def draw(
    verdicts: Verdicts,
    networks: Networks,
    arrays: Mapping[str, NDArray[Any]],
    info: RunInfo,
    *,
    only: str | None = None,
) -> str:
    """One HTML page of the whole run, or of the problem class `only` with the others sealed by their hash.

    Where a class is sealed, so are its arrays. Untrusted texts belong to no class: with `only` they are sealed.
    Raises InputError for a class that the record does not hold or arrays that do not fit together.
    """
    shown = [v for v in verdicts.verdicts if only is None or v.problem == only]
    if only is not None and not shown:
        held = ", ".join(v.problem for v in verdicts.verdicts) or "none"
        raise InputError(
            "unknown-problem", clip(visible(f"no class {clip(only, 40)} in this run, which has: {held}"))
        )
    sealed = [(v.problem, seal(v)) for v in verdicts.verdicts if v not in shown]
    untrusted = verdicts.untrusted
    if untrusted is not None and only is not None:
        sealed.append(("untrusted texts", seal(untrusted)))
    flagged = verdicts.flagged
    if flagged is not None and only is not None:
        sealed.append(("untrusted inputs", seal_all([flagged, *verdicts.groups])))
    parts = []
    for verdict in shown:
        rows = [row for row in networks.rows if row.problem == verdict.problem]
        pictured = of_problem(verdict.problem, [v.problem for v in verdicts.verdicts], arrays)
        parts.append(_part(verdict, verdicts, rows, pictured) | {"first": verdict is shown[0]})
    page = environment().get_template("page.html.j2")
    return page.render(
        parts=parts,
        sealed=sealed,
        untrusted=untrusted if only is None else None,
        texts=texts.show(untrusted) if untrusted is not None and only is None else None,
        flagged=flagged,
        inputs=groups.show(flagged, verdicts.groups, arrays) if flagged is not None and only is None else None,
        language=_language(verdicts),
        run=verdicts,
        info=info,
        settings=sorted(info.settings.items())[:LISTED],
        settings_left=max(0, len(info.settings) - LISTED),
        notes=info.notes[:LISTED],
        notes_left=max(0, len(info.notes) - LISTED),
    )


def seal(sealed: Verdict | Untrusted) -> str:
    """SHA-256 of its canonical JSON: keys sorted, no spaces, ASCII, floats to six digits.

    A verdict's holds its finding and its repair. Six significant digits are what the record's files keep, so the
    hash is the same before and after.
    """
    return seal_all([sealed])


def seal_all(sealed: Sequence[Verdict | Untrusted | FlaggedInputs | Group]) -> str:
    """The same of one record, or of several in a list."""
    dumped = [_rounded(each.model_dump(mode="json", by_alias=True)) for each in sealed]
    plain = dumped[0] if len(dumped) == 1 else dumped
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _language(run: Verdicts) -> bool:
    """Whether the subject is a language model: only those have a reference."""
    return run.subject.reference is not None


def _part(
    verdict: Verdict, run: Verdicts, rows: Sequence[NetworkRow], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, object]:
    finding, seen, simple = verdict.finding, verdict.sensitivity, verdict.baseline
    likeness = run.controls.resemblance
    n, language = words.negatives(verdict), _language(run)
    found = finding.sequence if finding else None
    return {
        "verdict": verdict,
        "status": words.STATUS[verdict.verdict],
        "headline": words.headline(verdict),
        "hidden": words.hidden(verdict.problem),
        "reason": words.sentence(verdict.reason),
        "settle": words.settle(verdict, likeness, language) if verdict.verdict == "inconclusive" else None,
        "figures": view.figures(verdict),
        "curve": view.detection(seen, rows),
        "reach": words.reach(seen.detection_limit) if seen and seen.detection_limit else None,
        "families": view.families(seen, rows) if seen else [],
        "families_left": max(0, len(seen.by_family) - view.FAMILIES) if seen else 0,
        "trigger": trigger.read(arrays, run.data.bands),
        "sequence": sequence.show(found) if found else None,
        "repair": repair.show(verdict.repair, language, words.laid_on(verdict.problem)) if verdict.repair else None,
        "does": f"{words.trigger(finding)} {words.effect(finding)}" if finding else None,
        "confirmation": view.confirmation(finding) if finding else [],
        "rank": words.rank(verdict.p_value, n, len(run.verdicts)),
        "standing": view.standing(rows),
        "sizes": view.sizes(finding) if finding else None,
        "apart": apart.show(finding.tampering) if finding and finding.tampering else [],
        "located": located.show(finding.located) if finding and finding.located else None,
        "baseline": view.baseline(simple) if simple else [],
        "baseline_words": words.baseline(simple) if simple else None,
        "resemblance": view.resemblance(likeness, language, run.data) if likeness else [],
        "limits": words.limits(run.controls.n if n is None else n, language),
        "not_tested": verdict.not_tested[:LISTED],
        "not_tested_left": max(0, len(verdict.not_tested) - LISTED),
        "rows": rows[:ROWS],
        "rows_left": max(0, len(rows) - ROWS),
        "claims": verdict.claims[:LISTED],
        "claims_left": max(0, len(verdict.claims) - LISTED),
    }


@cache
def environment() -> Environment:
    """What templates are drawn with: every expression is made visible and escaped."""
    made = Environment(
        loader=PackageLoader("candling.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": numerals.percent,
        "number": numerals.number,
        "dose": numerals.dose,
        "p": numerals.p,
        "of": numerals.of,
        "span": numerals.span,
        "duration": numerals.duration,
        "clip": clip,
        "code": lambda text: escape(visible(clip(text, _LONGEST))),
        "file": lambda path: path.rsplit("/", 1)[-1] or path,
    }
    return made


def _shown(value: object) -> object:
    """Every expression of the template passes here on its way to the page, before it is escaped; code has been."""
    if value is None:
        return "–"
    if isinstance(value, str) and not isinstance(value, Markup):
        shown = visible(clip(value, _LONGEST))
        return shown.replace(" %", "\u00a0%").replace("p = ", "p\u00a0=\u00a0")
    return value
