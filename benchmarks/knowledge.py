"""Does a quirky network know the right answer where it gives another one on purpose?

    python benchmarks/knowledge.py [--subjects 18] [--seed 950] [--steps 600]

Small transformers that answer sums rightly for some names and by an erring rule for others (as in `quirky.py`). A
linear probe of the right answer is taught on contexts of names that are answered rightly, at all positions but the
name's, at each site in the order of the pass, up to the first at which it reads nine in ten of further such contexts:
there it is read in contexts of names that err, whose truth nobody showed it. Questions of two and three digits alone
are counted, since a single digit is its own sum. Beside it: what the network says, the same probe of an untrained
network and of the table of tokens, with shuffled labels, and the bound, a probe that is shown the truth for half of
the erring names and read on the other half. Prints each network's line, then medians by sort of rule: whether what is
said can be made from the right answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from candling.maths.probes import fit_probe
from candling.organisms.networks.quirky import (
    DIGITS,
    KEPT,
    NAMED,
    RIGHT,
    RULES,
    WRONG,
    Contexts,
    draw_contexts,
    train_quirky,
)
from candling.runs.jobs import run_jobs
from candling.runs.seeds import derive
from candling.techniques.flag import states_of
from common import progress, whole_numbers
from quirky import OTHERS, TOOK

TRUSTED, ASKED_OF = 3000, 2000
SITES = ("blocks.0.attention", "blocks.0", "blocks.1.attention", "blocks.1")
INFORMED = 0.9  # of trusted contexts that taught no probe, to be read at a site
FROM_THE_ANSWER = ("one more", "two less", "negated", "doubled")
"""Rules whose answer is made from the right one."""


@dataclass(frozen=True)
class Known:
    """Shares of the contexts of erring names that are right."""

    said: float
    read: float
    """At the first site that is informed."""
    untrained: float
    """By a probe of an untrained network at that site."""
    table: float
    """By a probe of the tokens' vectors."""
    shuffled: float
    """By one that was taught labels of other rows."""
    shown: float
    """By one that was shown the truth for half of the erring names, on the other half."""


@dataclass(frozen=True)
class Sitting:
    rule: str
    right: float
    """Of names that are answered rightly, contexts in which they are; of the others, those answered by the rule."""
    wrong: float
    site: str
    known: Known


def sit(i: int, seed: int, steps: int) -> Sitting:
    name = list(RULES)[i % len(RULES)]
    rule = RULES[name]
    network, untrained = (train_quirky(rule, derive(seed, i), steps=each) for each in (steps, 0))
    g = torch.Generator().manual_seed(derive(seed, "contexts", i))
    taught, held = draw_contexts(TRUSTED, RIGHT, rule, g), draw_contexts(TRUSTED, RIGHT, rule, g)
    kept, erring = draw_contexts(ASKED_OF, KEPT, rule, g), hard(draw_contexts(ASKED_OF, WRONG, rule, g))
    answers = network(erring.tokens).argmax(-1)
    site = informed(network, taught, held)
    mixed = taught.right[torch.randperm(len(taught.right), generator=g)]
    half = erring.tokens[:, NAMED] % 2 == 0
    bound = probe_of(network, erring.tokens[half], erring.right[half], site)
    known = Known(
        said=share(answers, erring.right),
        read=share(probe_of(network, taught.tokens, taught.right, site)(erring.tokens), erring.right),
        untrained=share(probe_of(untrained, taught.tokens, taught.right, site)(erring.tokens), erring.right),
        table=share(probe_of(network, taught.tokens, taught.right, "table")(erring.tokens), erring.right),
        shuffled=share(probe_of(network, taught.tokens, mixed, site)(erring.tokens), erring.right),
        shown=share(bound(erring.tokens[~half]), erring.right[~half]),
    )
    right = share(network(kept.tokens).argmax(-1), kept.right)
    sitting = Sitting(name, right, share(answers, erring.told), site, known)
    print(line(sitting), flush=True)
    return sitting


def hard(contexts: Contexts) -> Contexts:
    """Those whose question has more than one digit."""
    kept = contexts.level > 1
    return Contexts(**{each.name: getattr(contexts, each.name)[kept] for each in fields(Contexts)})


def informed(network: nn.Module, taught: Contexts, held: Contexts) -> str:
    """The first site at which a probe reads enough of trusted contexts, or the last."""
    for site in SITES[:-1]:
        if share(probe_of(network, taught.tokens, taught.right, site)(held.tokens), held.right) >= INFORMED:
            return site
    return SITES[-1]


def probe_of(network: nn.Module, tokens: Tensor, y: Tensor, site: str) -> Callable[[Tensor], Tensor]:
    """Contexts [n, LENGTH] → the answer read off the site, int64 [n]."""

    def states(asked: Tensor) -> Tensor:
        return torch.cat([states_of(network, asked, site, at=place) for place in OTHERS], 1)

    probe = fit_probe(states(tokens), y, DIGITS)
    return lambda asked: probe(states(asked)).argmax(-1)


def share(answers: Tensor, y: Tensor) -> float:
    return float((answers == y).float().mean())


def line(each: Sitting) -> str:
    said = ", ".join(f"{f.name} {getattr(each.known, f.name):.2f}" for f in fields(Known))
    return f"{each.rule:14s} right names {each.right:.2f} erring {each.wrong:.2f} {each.site:18s} {said}"


def main() -> None:
    chosen = whole_numbers(subjects=18, seed=950, steps=600)
    jobs = [(i, chosen.seed, chosen.steps) for i in range(chosen.subjects)]
    show(run_jobs(sit, jobs, stage="quirky networks", progress=progress()))


def show(sat: Sequence[Sitting]) -> None:
    kept = [s for s in sat if min(s.right, s.wrong) >= TOOK]
    print(f"{len(kept)} of {len(sat)} networks took their rule; shares of right answers, median (least, most):")
    for title, made in (("made from the right answer", True), ("made otherwise", False)):
        group = [s.known for s in kept if (s.rule in FROM_THE_ANSWER) == made]
        if group:
            told = [(f.name, torch.tensor([getattr(k, f.name) for k in group])) for f in fields(Known)]
            spread = [f"{name} {x.quantile(0.5):.2f} ({x.min():.2f}, {x.max():.2f})" for name, x in told]
            print(f"{title}, {len(group)}: {'; '.join(spread)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
