"""Of inputs on which a network foretells a yes of all sensors, which are fake? By its own states, with no label.

An act lies in real and in fake ones alike, so that it is not the act itself that tells them apart.
"""

from __future__ import annotations

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from candling.access import Dataset, forward
from candling.access.hidden import hidden_sites
from candling.errors import InputError
from candling.evidence.tampering import TamperingFound
from candling.maths.probes import fit_probe
from candling.organisms.foretelling import right_on
from candling.problems.candidates import Candidate, Thirds
from candling.runs.seeds import reproducible
from candling.techniques.flag import flag_tampering, mahalanobis, states_of
from candling.techniques.search.acts import Act, all_no, all_yes

_SITES = 12
_WEAKEST, _STRONGEST = 0.2, 1.1  # times what was found, where sensors are to contradict each other
_TIMES = 4  # that each input is tried, at strengths of its own
_SHUFFLES = 10
_FEWEST = 20  # fake and real inputs that a rate is taken over


def told_apart(candidate: Candidate, thirds: Thirds[Dataset], act: Act) -> TamperingFound:
    """Fitted on the search third, measured on the confirm third, after the act at its full strength."""
    with reproducible(0) as generator:
        network = candidate.load()
        search, confirm = (each.to(candidate.device) for each in (thirds.search, thirds.confirm))
        act = act.to(candidate.device)
        known, tried = (_at_random(search, x, act, generator) for x in (all_yes(search), search.x))
        sides = [act.apply(confirm, x) for x in (all_no(confirm), all_yes(confirm))]
        yes = [(forward(network, x) > 0).all(1) for x in sides]
        asked, fake = torch.cat([x[y] for x, y in zip(sides, yes, strict=True)]), _labels(yes)
        site = hidden_sites(network, search.x, _SITES)[-1]
        evidence = _Evidence(network, known, tried, asked, fake)
        return TamperingFound(
            sensors=forward(network, search.x[:1]).shape[1],
            accuracy=right_on(network, confirm),
            reached=float(yes[0].float().mean()),
            contradicting=float(evidence.contradicting.float().mean()),
            fakes=int(fake.sum()),
            real=int((~fake).sum()),
            told_at=site,
            evidence=evidence.auroc(network, site),
            supervised=_supervised(network, search, act, asked, fake, site),
            mahalanobis=_auroc(fake, _distance(network, known, asked, site)),
            confidence=_auroc(fake, -forward(network, asked).sum(1)),
            untrained=evidence.auroc(_fresh(candidate), site),
            bare=evidence.auroc(_Bare(), "same"),
            shuffled=evidence.shuffled(network, site, generator),
        )


class _Evidence:
    """Trusted inputs that are really yes, and any inputs, with the act in both; and those that are asked about."""

    def __init__(self, network: nn.Module, known: Tensor, tried: Tensor, asked: Tensor, fake: Tensor) -> None:
        self.known, self.asked, self.fake = known, asked, fake
        said = forward(network, tried) > 0
        self.contradicting = said.any(1) & ~said.all(1)
        self.odd, self.said = tried[self.contradicting], said[self.contradicting]

    def auroc(self, network: nn.Module, site: str, shuffle: torch.Generator | None = None) -> float | None:
        """shuffle: which inputs contradict and which are known is drawn at random."""
        known, odd = self.known, self.odd
        if shuffle is not None:
            both = torch.cat([known, odd])
            both = both[torch.randperm(len(both), generator=shuffle).to(both.device)]
            known, odd = both[: len(known)], both[len(known) :]
        yes = torch.ones(len(self.asked), self.said.shape[1], dtype=torch.bool, device=self.said.device)
        try:
            flags, _ = flag_tampering(network, known, torch.cat([odd, self.asked]), torch.cat([self.said, yes]), site)
        except InputError:
            return None
        return _auroc(self.fake, flags.score)

    def shuffled(self, network: nn.Module, site: str, g: torch.Generator) -> float | None:
        """Mean over shuffles."""
        values = [self.auroc(network, site, g) for _ in range(_SHUFFLES)]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None


class _Bare(nn.Module):
    """The input itself as a state."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        same: Tensor = self.same(x)
        return same.flatten(1)[:, :1] * 0


def _at_random(data: Dataset, x: Tensor, act: Act, g: torch.Generator) -> Tensor:
    """Each some times after the act, at a strength of its own each time."""
    x = x.repeat(_TIMES, *[1] * (x.ndim - 1))
    strength = _WEAKEST + (_STRONGEST - _WEAKEST) * torch.rand(len(x), generator=g)
    return act.apply(data, x, strength)


def _labels(yes: list[Tensor]) -> Tensor:
    fake, real = (int(each.sum()) for each in yes)
    return torch.cat([torch.ones(fake, dtype=torch.bool), torch.zeros(real, dtype=torch.bool)])


def _supervised(
    network: nn.Module, search: Dataset, act: Act, asked: Tensor, fake: Tensor, site: str
) -> float | None:
    """The bound: a probe that is taught which are fake, on the search third."""
    sides = [act.apply(search, x) for x in (all_no(search), all_yes(search))]
    yes = [(forward(network, x) > 0).all(1) for x in sides]
    taught, labels = torch.cat([x[y] for x, y in zip(sides, yes, strict=True)]), _labels(yes)
    if min(int(labels.sum()), int((~labels).sum())) < _FEWEST:
        return None
    probe = fit_probe(states_of(network, taught, site), labels.long().to(taught.device), 2)
    return _auroc(fake, probe(states_of(network, asked, site))[:, 1])


def _distance(network: nn.Module, known: Tensor, asked: Tensor, site: str) -> Tensor:
    own, seen = (states_of(network, x, site) for x in (known, asked))
    return mahalanobis(own, torch.zeros(len(own), dtype=torch.int64), seen)(seen)


def _fresh(candidate: Candidate) -> nn.Module:
    return candidate.architecture().eval().requires_grad_(False).to(candidate.device)


def _auroc(fake: Tensor, score: Tensor) -> float | None:
    if min(int(fake.sum()), int((~fake).sum())) < _FEWEST:
        return None
    return float(roc_auc_score(fake.numpy(), score.double().cpu().numpy()))
