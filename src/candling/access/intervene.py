"""What would a network say if a site gave something else? Edits act in one pass and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from candling.access.canonical import Tap
from candling.access.fits import ready
from candling.access.layout import Layout
from candling.access.passes import run
from candling.access.wording import bad_input, shown

Change = Callable[[Tensor], Tensor]
"""A site's output to what replaces it, of the same shape and dtype."""


def intervene(
    module: nn.Module,
    inputs: Tensor,
    edits: Mapping[str, Change],
    *,
    grad: bool = False,
    layout: Layout | None = None,
) -> Tensor:
    """Logits of `module` on `inputs` [n, ...] in eval mode, with each site's value replaced by its edit.

    edits: by site, as `observe` names them; they act in the order of computation, each on what those before it left.

    An edit receives a copy, so it may work in place, and a copy of what it returns goes on through the
    network, so it may return a tensor that is kept elsewhere. Costs one forward pass. Raises InputError
    where an edit returns no tensor or another shape or dtype, and as `passes.run` does.
    """
    ready(module, edits, layout)
    taps = {site: _checked(site, edit) for site, edit in edits.items()}
    return run(module, inputs, taps, grad=grad, layout=layout)


def _checked(site: str, edit: Change) -> Tap:
    def tap(output: Tensor) -> Tensor:
        new: object = edit(output.clone())
        if not isinstance(new, Tensor):
            raise bad_input("edit", f"the edit at {shown(site)} returned {type(new).__name__}, not a tensor")
        if (new.shape, new.dtype) != (output.shape, output.dtype):
            was, now = (f"{list(t.shape)} {t.dtype}" for t in (output, new))
            raise bad_input("edit", f"the edit at {shown(site)} turned {was} into {now}")
        return new.clone()  # the next layer may overwrite it

    return tap
