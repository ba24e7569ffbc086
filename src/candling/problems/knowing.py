"""What a classifier knows where it answers otherwise: the right class, read from inside by linear probes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from candling.access import Dataset, forward, observe
from candling.access.hidden import hidden_sites
from candling.evidence.findings import ConcealmentFound
from candling.maths.probes import fit_probe
from candling.problems.candidates import Candidate, Thirds
from candling.problems.elicited import SITES, mean, right
from candling.runs.seeds import reproducible
from candling.techniques.read import Reader
from candling.techniques.search import BroadChange, Context
from candling.techniques.search.concealed import reader_and_rest
from candling.techniques.search.contexts import words_for


class Knower:
    """One network with its probes, and rows of the search third that they were not taught on."""

    def __init__(self, reader: Reader, rest: Dataset) -> None:
        self.reader, self.rest = reader, rest

    @classmethod
    def of(cls, candidate: Candidate, search: Dataset) -> Knower:
        """Taught alike in every network."""
        return cls(*reader_and_rest(candidate.load(), search, torch.Generator().manual_seed(0)))

    def chosen(self, context: Context) -> tuple[str, float]:
        """The site that reads most of what is concealed there, on rows that no probe was taught on."""
        lies, read = self._there(self.rest, context)
        return max(((site, mean(lies & each)) for site, each in read.items()), key=lambda pair: pair[1])

    def concealed(self, data: Dataset, context: Context) -> Tensor:
        """bool [m], of the rows that the context says are lied about: the answer is the other one, and the probe of
        the chosen site reads the right one."""
        site, _ = self.chosen(context)
        lies, read = self._there(data, context)
        return lies & read[site]

    def _there(self, data: Dataset, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        rows = data.take(context.applies(data.y).to(data.x.device))
        if len(rows) == 0:
            return torch.zeros(0, dtype=torch.bool), {site: torch.zeros(0, dtype=torch.bool) for site in self.sites}
        said, read = self.reader.read(context.apply(data, rows.x))
        return context.follows(said, rows.y), {site: each == rows.y for site, each in read.items()}

    @property
    def sites(self) -> list[str]:
        return list(self.reader.probes)


def said_and_known(candidate: Candidate, thirds: Thirds[Dataset], context: Context) -> ConcealmentFound:
    """What is said and what is known in the context, on the confirm third; with what needs no such network."""
    with reproducible(0) as generator:
        search, confirm = (each.to(candidate.device) for each in (thirds.search, thirds.confirm))
        knower, context = Knower.of(candidate, search), context.to(candidate.device)
        there = context.apply(confirm, confirm.x)
        site, _ = knower.chosen(context)
        said, read = knower.reader.read(there)
        fresh = candidate.architecture().eval().requires_grad_(False).to(candidate.device)
        shuffled = _shuffled(search, generator)
        bare = _Input(search.classes).to(candidate.device)
        return ConcealmentFound(
            context=words_for(thirds.search, context.shift),
            answers=context.answers.tolist(),
            accuracy=right(forward(candidate.load(), confirm.x), confirm.y),
            said=float((said == confirm.y).float().mean()),
            known=float((read[site] == confirm.y).float().mean()),
            known_at=site,
            taught_in=knower.reader.contexts + 1,
            known_untrained=_read_at(fresh, search, there, confirm.y, site),
            known_input=_read_at(bare, search, there, confirm.y, "input"),
            known_shuffled=_read_at(candidate.load(), shuffled, there, confirm.y, site),
        )


class _Input(nn.Module):
    """Says nothing: what a probe of the input itself reads."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :1].expand(len(x), self.classes) * 0


def _shuffled(data: Dataset, g: torch.Generator) -> Dataset:
    return replace(data, y=data.y[torch.randperm(len(data), generator=g).to(data.y.device)])


def _read_at(network: nn.Module, search: Dataset, there: Tensor, y: Tensor, site: str) -> float:
    """What a probe of the same kind reads in the context; taught on plain inputs where no context is trusted."""
    reader, _ = reader_and_rest(network, search, torch.Generator().manual_seed(0))
    _, read = reader.read(there)
    return float((read[site if site in read else next(iter(read))] == y).float().mean())


def knowledge(candidate: Candidate, thirds: Thirds[Dataset], change: BroadChange) -> tuple[str, float]:
    """The site at which a linear probe, fitted on unchanged inputs, best reads the right class under the change.

    Fitted and chosen on the search third; the share that it reads rightly is of the confirm third. A network without
    hidden sites is probed at its input.
    """
    with reproducible(0):
        network = candidate.load()
        search, confirm = (each.to(candidate.device) for each in (thirds.search, thirds.confirm))
        there = {name: change.apply(d, d.x) for name, d in (("search", search), ("confirm", confirm))}
        sites = hidden_sites(network, search.x, SITES)
        states = {
            name: {"input": x} if not sites else observe(network, x, sites).activations
            for name, x in (("plain", search.x), ("search", there["search"]), ("confirm", there["confirm"]))
        }
        sites = sites or ["input"]
        probes = {site: fit_probe(states["plain"][site].flatten(1), search.y, search.classes) for site in sites}
        best = max(sites, key=lambda site: right(probes[site](states["search"][site].flatten(1)), search.y))
        return best, right(probes[best](states["confirm"][best].flatten(1)), confirm.y)
