"""Feature visualisation beside exemplars: what makes a unit fire, drawn and picked from data, and scored.

Question: which input excites or quiets a unit most, and does seeing it tell what the unit will do on other inputs?
Source: activation maximisation with jitter, L2 and total variation (Mahendran and Vedaldi, 1512.02017, section 3;
    Olah et al. 2017); exemplars beside it, scored by forced choice (Borowski et al., 2010.12606; 2106.12447).
Inputs: network [n, ...] → any output; inputs [n, *input] in a range low..high; a site by module path, whose output
    is [n, units, ...]; a unit's activation is its mean over positions. Choices in 0..1, one half by guessing.
Cost: one forward pass of each input for the exemplars; 2·steps forward and backward passes for the two drawings; the
    forced choice: one forward pass of each input held out, for all units together.
Known failures: unregularised optima are adversarial, and regularised ones show what the regulariser likes: exemplars
    predict a unit better (2010.12606), so a drawing never comes alone; a unit of several causes shows one; likeness
    in pixels knows no shift; an untrained network's units are foretold nearly as well, so a high score does not say
    that a unit means something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from candling.access import observe
from candling.access.wording import bad_input, shown
from candling.evidence.measurement import Cost
from candling.runs.seeds import derive, reproducible

_ROWS = 512  # in a pass


@dataclass(frozen=True)
class Drawing:
    """How an input is optimised. Weights are per element of the input, in units of the activation's spread."""

    steps: int = 128
    rate: float = 0.1
    """Adam's, of the input before the sigmoid that keeps it in range"""
    jitter: int = 1
    """Largest shift along each image axis, in cells"""
    l2: float = 0.05
    """On the squared distance from the lower end of the range"""
    variation: float = 0.1
    """On the squared difference of neighbours"""


@dataclass(frozen=True, eq=False)
class Visualisation:
    """One unit, drawn and exemplified. The two belong together."""

    site: str
    unit: int
    high: Tensor
    """[*input] drawn so that the unit is as active as may be"""
    low: Tensor
    """[*input] drawn so that it is as quiet as may be"""
    drawn: tuple[float, float]
    """The unit's activation on either"""
    top: Tensor
    """[k, *input] the most exciting inputs of the data, first the most"""
    bottom: Tensor
    """[k, *input] the most quieting, first the most"""
    top_rows: Tensor
    """int64 [k] where they are in the data"""
    bottom_rows: Tensor
    """int64 [k]"""
    seen: tuple[float, float]
    """The unit's highest and lowest activation in the data"""
    cost: Cost


def visualise(
    network: nn.Module,
    data: Tensor,
    *,
    site: str,
    unit: int,
    exemplars: int = 5,
    drawing: Drawing = Drawing(),
    seed: int = 0,
) -> Visualisation:
    """The drawn inputs of a unit and its exemplars in `data` [n, *input], whose range the drawings keep to.

    Raises InputError for a site or unit that is none, data that are not floats, and fewer than 2·exemplars of them.
    """
    if not data.is_floating_point() or exemplars < 1 or len(data) < 2 * exemplars:
        what = f"{list(data.shape)} {data.dtype}"
        raise bad_input("data", f"{exemplars} exemplars either way need twice as many inputs of floats, not {what}")
    activation = unit_activations(network, data, site)
    if not 0 <= unit < activation.shape[1]:
        raise bad_input("unit", f"no unit {unit} at {shown(site)}; there are 0 to {activation.shape[1] - 1}")
    own = activation[:, unit]
    order = torch.argsort(own, descending=True, stable=True)
    top, bottom = order[:exemplars], order.flip(0)[:exemplars]
    pair, drawn = _draw(network, data, site, unit, drawing, scale=float(own.std()), seed=seed)
    passes = 2 * drawing.steps
    return Visualisation(
        site=site,
        unit=unit,
        high=pair[0],
        low=pair[1],
        drawn=drawn,
        top=data[top],
        bottom=data[bottom],
        top_rows=top,
        bottom_rows=bottom,
        seen=(float(own[order[0]]), float(own[order[-1]])),
        cost=Cost(forward=len(data) + passes + 2, backward=passes),
    )


def unit_activations(network: nn.Module, x: Tensor, site: str) -> Tensor:
    """[n, units] each unit's mean over positions. Costs n forward passes. Raises InputError as `observe` does, and
    for a site without units."""
    parts = [_pooled(observe(network, rows, [site]).activations[site], site) for rows in x.split(_ROWS)]
    return torch.cat(parts)


def _pooled(output: Tensor, site: str) -> Tensor:
    if output.ndim < 2:
        raise bad_input("site", f"{shown(site)} gives {list(output.shape)} and has no units; choose another")
    return output.flatten(2).mean(2) if output.ndim > 2 else output


def _draw(
    network: nn.Module, data: Tensor, site: str, unit: int, drawing: Drawing, *, scale: float, seed: int
) -> tuple[Tensor, tuple[float, float]]:
    """[2, *input], the exciting one first, and the activations."""
    bottom, width = data.min(), (data.max() - data.min()).clamp(min=1e-6)
    spread = max(scale, 1e-6)
    sign = torch.tensor([1.0, -1.0], dtype=data.dtype, device=data.device)
    with reproducible(derive(seed, site, unit)) as g:
        free = 0.1 * torch.randn((2, *data.shape[1:]), generator=g, dtype=data.dtype)
        free = (free - 1).to(data.device).requires_grad_()
        optimiser = torch.optim.Adam([free], drawing.rate)
        for _ in range(drawing.steps):
            unscaled = torch.sigmoid(free)
            moved = _jitter(bottom + width * unscaled, drawing.jitter, g)
            output = observe(network, moved, [site], grad=True).activations[site]
            reward = (sign * _pooled(output, site)[:, unit]).sum() / spread
            penalty = drawing.l2 * unscaled.square().sum() + drawing.variation * _variation(unscaled)
            (free.grad,) = torch.autograd.grad(penalty - reward, [free])
            optimiser.step()
    pair = (bottom + width * torch.sigmoid(free)).detach()
    high, low = unit_activations(network, pair, site)[:, unit].tolist()
    return pair, (high, low)


def _image_axes(x: Tensor) -> tuple[int, ...]:
    """Those after the rows and channels; a table has none."""
    return tuple(range(2, x.ndim))


def _jitter(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    axes = _image_axes(x)
    if not axes or not most:
        return x
    shifts = torch.randint(-most, most + 1, (len(axes),), generator=generator)
    return x.roll(tuple(shifts.tolist()), axes)


def _variation(x: Tensor) -> Tensor:
    """Σ of squared differences of neighbours along the image axes."""
    zero = x.new_zeros(())
    return sum((x.diff(dim=axis).square().sum() for axis in _image_axes(x)), zero)


# --- forced choice -------------------------------------------------------------------------------------------

Space = Callable[[Tensor], Tensor]
"""Inputs [n, *input] → vectors [n, d] in which they are compared: the space that a score is said to be in"""


def pixels(x: Tensor) -> Tensor:
    """The inputs themselves."""
    return x.flatten(1)


def embedding(network: nn.Module, site: str) -> Space:
    """The network's own view: a site's output, flattened. It may hold the unit itself: say which site."""

    def space(x: Tensor) -> Tensor:
        return torch.cat([observe(network, rows, [site]).activations[site].flatten(1) for rows in x.split(_ROWS)])

    return space


@dataclass(frozen=True, eq=False)
class ForcedChoice:
    """Of two inputs held out, which excites the unit more? Share of right answers, by what the chooser was shown."""

    units: tuple[tuple[str, int], ...]
    drawings: Tensor
    """[units] shown the two drawings"""
    exemplars: Tensor
    """[units] shown the exemplars"""
    both: Tensor
    """[units] shown both: the mean of the two likenesses"""
    none: Tensor
    """[units] shown nothing of the unit: the input of larger norm is taken"""
    others: Tensor
    """[units] shown drawings and exemplars of the next unit in the list: what is not about this unit"""
    pairs: int
    """A unit"""
    cost: Cost


def forced_choice(
    network: nn.Module,
    visualisations: Sequence[Visualisation],
    held_out: Tensor,
    *,
    space: Space = pixels,
    tail: float = 0.25,
    pairs: int = 200,
    seed: int = 0,
) -> ForcedChoice:
    """How well likeness to the references tells a unit's exciting inputs from its quieting ones.

    Each question is an input of the upper `tail` and one of the lower, by the unit's activation in `held_out` [n,
    *input], none of which may be an exemplar. The one is taken that is more like the exciting references and less
    like the quieting ones, by the mean cosine in `space` about the mean of `held_out`; a tie counts half. NaN for a
    unit that never differs. Raises InputError for fewer than two visualisations, a tail not in 0..0.5, fewer than 8
    inputs, and an exemplar among them.
    """
    if len(visualisations) < 2 or not 0 < tail <= 0.5 or len(held_out) < 8:
        what = f"{len(visualisations)} units, tail {tail}, {len(held_out)} inputs"
        raise bad_input("choice", f"{what}: needs two units, a tail in 0..0.5 and eight inputs")
    if any(_among(v.top, held_out) or _among(v.bottom, held_out) for v in visualisations):
        raise bad_input("choice", "an exemplar is among the inputs held out; keep the two apart")
    vectors = space(held_out).double()
    centre = vectors.mean(0)
    seen = {site: unit_activations(network, held_out, site) for site in dict.fromkeys(v.site for v in visualisations)}

    def likeness(highs: Tensor, lows: Tensor) -> Tensor:
        high, low = (_cosines(vectors - centre, space(each).double() - centre) for each in (highs, lows))
        return high - low

    drawn = [likeness(v.high[None], v.low[None]) for v in visualisations]
    shown_data = [likeness(v.top, v.bottom) for v in visualisations]
    both = [a + b for a, b in zip(drawn, shown_data, strict=True)]
    norm = held_out.flatten(1).double().norm(dim=1)
    rows = []
    for i, v in enumerate(visualisations):
        high, low = _questions(seen[v.site][:, v.unit], tail, pairs, derive(seed, v.site, v.unit))
        given = (drawn[i], shown_data[i], both[i], norm, both[(i + 1) % len(both)])
        rows.append([float((torch.sign(score[high] - score[low]) + 1).mean() / 2) for score in given])
    drawings, exemplars, together, none, others = torch.tensor(rows, dtype=torch.float64).T.unbind()
    return ForcedChoice(
        units=tuple((v.site, v.unit) for v in visualisations),
        drawings=drawings,
        exemplars=exemplars,
        both=together,
        none=none,
        others=others,
        pairs=pairs,
        cost=Cost(forward=len(held_out) * len(seen), backward=0),
    )


def _among(some: Tensor, all_of_them: Tensor) -> bool:
    return any(bool((all_of_them == each).flatten(1).all(1).any()) for each in some)


def _cosines(vectors: Tensor, references: Tensor) -> Tensor:
    """[n, d], [k, d] → [n] mean over references."""
    return (nn.functional.normalize(vectors, dim=1) @ nn.functional.normalize(references, dim=1).T).mean(1)


def _questions(activation: Tensor, tail: float, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of the upper and of the lower tail, paired at random; those that are no different are left out."""
    order = torch.argsort(activation, descending=True, stable=True)
    count = max(1, int(tail * len(order)))
    g = torch.Generator().manual_seed(seed)
    picks = torch.randint(count, (2, pairs), generator=g)
    high, low = order[:count][picks[0]], order.flip(0)[:count][picks[1]]
    different = activation[high] > activation[low]
    return high[different], low[different]
