"""Input attribution in any network: which parts of an input speak for the answer?

Question: how much does each element of an input add to one output of the network?
Source: saliency (Simonyan et al., 1312.6034); integrated gradients (Sundararajan et al., 1703.01365, eq. 1); Grad-CAM
    (Selvaraju et al., 1610.02391, eqs. 1 and 2); occlusion (Zeiler and Fergus, 1311.2901); guided backpropagation
    (Springenberg et al., 1412.6806), a negative control for `sanity`. Computed by captum (2009.07896).
Inputs: network [n, ...] → [n, K], or [n] without a target; float inputs [n, ...]; target int64 [n], the output that
    is explained. Tokens by their embeddings: see `at_embedding`. Values have the input's shape, units of the output.
Cost: saliency, guided backpropagation, Grad-CAM: one forward and one backward pass of each input (Grad-CAM one more
    of one input); integrated gradients: `steps` of both, and two forward; occlusion: one forward pass for each place
    of the window, and one.
Known failures: whatever is multiplied by the input mostly shows the input; guided backpropagation hardly depends on
    the upper layers (both: see `sanity`); a baseline is a choice, and what equals it gets nothing; Grad-CAM is as
    coarse as its site; saliency is blind where the output is flat.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from candling.access import intervene, observe
from candling.access.modes import undisturbed
from candling.access.passes import run
from candling.access.sites import located
from candling.access.wording import bad_input, shown
from candling.evidence.measurement import Cost


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each element of each input adds to the output that is explained."""

    technique: str
    values: Tensor
    """Of the inputs' shape, signed"""
    completeness: float | None
    """How far the values are from summing to f(x) − f(baseline): Σ|gap| / Σ|f(x) − f(baseline)| over the inputs; None
    where the technique does not promise it"""
    cost: Cost


_ROWS = 1024  # in a pass of integrated gradients, unless the inputs alone are more

Attributor = Callable[[nn.Module, Tensor, Tensor | None], Attribution]
"""Network, inputs, target → attribution; bind further settings with `functools.partial`."""


def saliency(network: nn.Module, x: Tensor, target: Tensor | None = None) -> Attribution:
    """The gradient, with its sign. Raises InputError where captum is absent, for inputs that are not floats, and
    for a target that does not fit."""
    with _explaining(network, x, target) as (attr, whole, given):
        values = attr.Saliency(whole).attribute(given, target=target, abs=False)
    return Attribution("saliency", values.detach(), None, _cost(x, forward=1, backward=1))


def integrated_gradients(
    network: nn.Module, x: Tensor, target: Tensor | None = None, *, baseline: Tensor | None = None, steps: int = 50
) -> Attribution:
    """The gradient averaged from the baseline to the input, times their difference; `steps` of Gauss and Legendre.

    baseline: of the inputs' shape, or one row; zero if absent. Raises as `saliency` does, and for a baseline that
    does not fit.
    """
    start = _baseline(x, baseline)
    rows = max(len(x), _ROWS)
    with _explaining(network, x, target) as (attr, whole, given):
        technique = attr.IntegratedGradients(whole)
        values = technique.attribute(given, start, target=target, n_steps=steps, internal_batch_size=rows).detach()
        with torch.no_grad():
            way = _chosen(whole(x), target) - _chosen(whole(start), target)
    gap = (values.flatten(1).sum(1) - way).abs().sum() / way.abs().sum().clamp(min=torch.finfo(way.dtype).tiny)
    return Attribution("integrated gradients", values, float(gap), _cost(x, forward=steps + 2, backward=steps))


def input_times_gradient(network: nn.Module, x: Tensor, target: Tensor | None = None) -> Attribution:
    """A negative control: mostly the input. Raises as `saliency` does."""
    with _explaining(network, x, target) as (attr, whole, given):
        values = attr.InputXGradient(whole).attribute(given, target=target)
    return Attribution("input × gradient", values.detach(), None, _cost(x, forward=1, backward=1))


def guided_backprop(network: nn.Module, x: Tensor, target: Tensor | None = None) -> Attribution:
    """A negative control: the gradient with what is negative dropped at every ReLU on the way back.

    Acts on `nn.ReLU` parts alone, each of which may run once in a pass. Raises InputError where there are none, and
    as `saliency` does.
    """
    if not any(isinstance(part, nn.ReLU) for part in network.modules()):
        raise bad_input("network", "guided backpropagation needs nn.ReLU parts, and there are none; use saliency")
    with _explaining(network, x, target) as (attr, whole, given):
        values = attr.GuidedBackprop(whole).attribute(given, target=target)
    return Attribution("guided backpropagation", values.detach(), None, _cost(x, forward=1, backward=1))


def grad_cam(network: nn.Module, x: Tensor, target: Tensor | None = None, *, site: str) -> Attribution:
    """The site's channels [n, C, ...], weighed by their mean gradients, summed, drawn out to the input's size.

    Negative values are kept (eq. 2 drops them); the same for all channels of the input. Raises InputError for a site
    that is none or has another number of dimensions than the input, and as `saliency` does.
    """
    part = located(network, [site])[site]
    shape = observe(network, x[:1], [site]).activations[site].shape
    if len(shape) != x.ndim or x.ndim not in (3, 4, 5):
        raise bad_input("site", f"{shown(site)} gives {list(shape)}: Grad-CAM needs a place for each of the input's")
    with _explaining(network, x, target) as (attr, whole, given):
        coarse = attr.LayerGradCam(whole, part).attribute(given, target=target)
    smooth = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
    if not isinstance(coarse, Tensor):
        raise bad_input("site", f"{shown(site)} gives several tensors; Grad-CAM needs one")
    fine = nn.functional.interpolate(coarse.detach(), x.shape[2:], mode=smooth, align_corners=False)
    return Attribution(
        "Grad-CAM", fine.expand_as(x).clone(), None, _cost(x, forward=1, backward=1) + Cost(forward=1, backward=0)
    )


def occlusion(
    network: nn.Module,
    x: Tensor,
    target: Tensor | None = None,
    *,
    window: Sequence[int],
    stride: Sequence[int] | None = None,
    baseline: Tensor | None = None,
) -> Attribution:
    """How far the output falls when a window is set to the baseline: the mean over the windows that cover an element.

    window, stride: one number for each dimension of one input, channels included; the stride is 1 if absent. Raises
    as `integrated_gradients` does, and for a window that does not fit. captum takes the mean in float32.
    """
    step = tuple(stride) if stride is not None else (1,) * len(window)
    pairs = list(zip(window, step, x.shape[1:], strict=False))
    if not len(window) == len(step) == x.ndim - 1 or not all(0 < s <= w <= size for w, s, size in pairs):
        raise bad_input("window", f"window {list(window)} by stride {list(step)} does not fit in {list(x.shape[1:])}")
    places = 1
    for width, by, size in pairs:
        places *= 1 + -(-(size - width) // by)
    with _explaining(network, x, target) as (attr, whole, _), torch.no_grad():
        values = attr.Occlusion(whole).attribute(
            x, sliding_window_shapes=tuple(window), strides=step, baselines=_baseline(x, baseline), target=target
        )
    return Attribution("occlusion", values.to(x.dtype), None, _cost(x, forward=places + 1, backward=0))


def at_embedding(network: nn.Module, tokens: Tensor, site: str) -> tuple[nn.Module, Tensor]:
    """A network of embeddings [n, L, d] in place of tokens [n, L], and the tokens' own: ready for any technique here.

    Rows of further inputs belong to the tokens in turn, as often as need be. Costs n forward passes. Raises
    InputError as `observe` does.
    """
    return _AtEmbedding(network, tokens, site), observe(network, tokens, [site]).activations[site].detach().clone()


class _AtEmbedding(nn.Module):
    def __init__(self, network: nn.Module, tokens: Tensor, site: str) -> None:
        super().__init__()
        self.network, self.tokens, self.site = network, tokens, site

    def forward(self, embeddings: Tensor) -> Tensor:
        tokens = self.tokens.repeat(len(embeddings) // len(self.tokens), *[1] * (self.tokens.ndim - 1))
        return intervene(self.network, tokens, {self.site: lambda _: embeddings}, grad=torch.is_grad_enabled())


class _Whole(nn.Module):
    """The network with a tensor for an output, where it gives a tuple; and a check that the target fits it."""

    def __init__(self, network: nn.Module, target: Tensor | None, n: int) -> None:
        super().__init__()
        self.network, self.target, self.n = network, target, n

    def forward(self, x: Tensor) -> Tensor:
        output = run(self.network, x, {}, grad=torch.is_grad_enabled())
        if output.ndim != (1 if self.target is None else 2):
            shape = list(output.shape[1:])
            raise bad_input("target", f"the network gives {shape} for an input; a target goes with [K], none with []")
        if self.target is not None:
            fits = self.target.shape == (self.n,) and bool(
                ((self.target >= 0) & (self.target < output.shape[1])).all()
            )
            if not fits:
                raise bad_input("target", f"each of {self.n} inputs needs a target in 0..{output.shape[1] - 1}")
        return output


@contextmanager
def _explaining(
    network: nn.Module, x: Tensor, target: Tensor | None
) -> Iterator[tuple[ModuleType, nn.Module, Tensor]]:
    """captum's techniques, the network in eval mode, and a copy of the inputs that takes gradients."""
    attr = _captum()
    if not x.is_floating_point() or not len(x):
        what = f"{list(x.shape)} {x.dtype}"
        raise bad_input("inputs", f"inputs of floats are needed, not {what}; for tokens see at_embedding")
    with undisturbed(network, grad=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # captum tells of hooks that it removes again
        yield attr, _Whole(network, target, len(x)).eval(), x.detach().clone().requires_grad_()


def _captum() -> ModuleType:
    try:
        from captum import attr
    except ImportError:
        what = "input attribution needs captum: pip install 'candling[attribution]'"
        raise bad_input("captum", what) from None
    module: ModuleType = attr
    return module


def _baseline(x: Tensor, baseline: Tensor | None) -> Tensor:
    """Of the inputs' shape."""
    if baseline is None:
        return torch.zeros_like(x)
    try:
        return baseline.to(x).expand_as(x)
    except RuntimeError:
        what = f"a baseline {list(baseline.shape)} does not fit inputs {list(x.shape)}; give one row or as many"
        raise bad_input("baseline", what) from None


def _chosen(output: Tensor, target: Tensor | None) -> Tensor:
    return output if target is None else output.gather(1, target[:, None])[:, 0]


def _cost(x: Tensor, *, forward: int, backward: int) -> Cost:
    return Cost(forward=len(x) * forward, backward=len(x) * backward)
