"""Do a network and its trusted data go together?"""

from __future__ import annotations

from torch import Tensor, nn

from candling.access.arrays import check_labels
from candling.access.data import Dataset
from candling.access.modes import undisturbed
from candling.access.wording import bad_input, shown


def check_fits(dataset: Dataset, module: nn.Module) -> int:
    """How many classes the network tells apart, from one small pass over the first rows; of values, how many bands.

    Raises InputError where the network cannot take such rows, gives something other than float logits
    [n, classes] (for values: one real number a row), or has no output for a label (naming the first offending row),
    and where the metric does not take such outputs. Of sensors: two, yes and no; raises where the network does not
    have one output for each.
    """
    x = dataset.x[:4]
    try:
        with undisturbed(module):
            output = module(x)
    except Exception as fault:
        what = f"{type(fault).__name__}: {shown(fault, 80)}"
        raise bad_input("data", f"the network fails on x of shape {list(x.shape)}: {what}") from fault
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise bad_input("data", f"the network gives {kind}, not float logits [n, classes]")
    bands, first = dataset.task.bands, dataset.take(range(len(x)))
    if bands is not None:
        if output.shape not in ((len(x),), (len(x), 1)):
            what = f"the network gives {list(output.shape)} for {len(x)} rows, y holds one real number each"
            raise bad_input("data", f"{what}; give classes as integers, or worths of actions as y [n, actions]")
        if dataset.task.metric is not None:
            first.measure(bands.scores(output))
        return len(bands)
    if output.ndim != 2 or len(output) != len(x):
        what = f"the network gives {list(output.shape)} for {len(x)} rows, not [n, classes]"
        hint = "; for one real output give y as real numbers" if output.numel() == len(x) else ""
        raise bad_input("data", what + hint)
    if dataset.sensors is not None:
        if output.shape[1] != dataset.sensors.shape[1]:
            what = f"the network has {output.shape[1]} outputs, y {dataset.sensors.shape[1]} sensors"
            raise bad_input("data", f"{what}: give one column of y for each output")
        return dataset.classes
    if dataset.task.worth and output.shape[1] != dataset.classes:
        what = f"the network has {output.shape[1]} actions, y says what {dataset.classes} are worth"
        raise bad_input("data", what)
    check_labels(dataset.y.cpu().numpy(), output.shape[1], f"the network's {output.shape[1]} outputs", "")
    if dataset.task.metric is not None:
        first.measure(output)
    return output.shape[1]
