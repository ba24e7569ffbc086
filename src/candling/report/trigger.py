"""The recovered trigger as a picture: what it covers, what it adds, and what it does to six inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from candling.errors import InputError
from candling.report import charts, numerals, pixels

EXAMPLES = 6
MARKS = 12
FEATURES = 12

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """An input before and after; the pictures are None for tabular inputs."""

    before: Markup | None
    after: Markup | None
    predicted_before: str
    predicted_after: str
    moved: bool


@dataclass(frozen=True)
class Feature:
    index: int
    change: str
    bar: Markup


@dataclass(frozen=True)
class Trigger:
    """What section 'The trigger' shows. `features` is empty for images, the pictures None for tables."""

    image: bool
    mask: Markup | None
    adds: Markup | None
    most: str
    """The largest absolute value that it adds."""
    pairs: list[Pair]
    averaged: int
    """Cells along a side averaged into one drawn cell; 1 when nothing was averaged."""
    features: list[Feature] = field(default_factory=list)
    features_left: int = 0
    share_left: str = ""
    from_examples: bool = False
    marks: list[Markup] = field(default_factory=list)
    """What each of the first classes' marks adds."""
    marks_left: int = 0
    by_class: bool = False
    """Whether `features` differ between the classes' marks, rather than change in one way."""


def read(arrays: Mapping[str, NDArray[Any]], names: Sequence[str] | None = None) -> Trigger | None:
    """The trigger in `arrays`; None where none was recorded. names: of the classes, where they have any."""
    found = _read(arrays)
    if found is None or names is None:
        return found
    pairs = [
        replace(
            pair,
            predicted_before=_called(pair.predicted_before, names),
            predicted_after=_called(pair.predicted_after, names),
        )
        for pair in found.pairs
    ]
    return replace(found, pairs=pairs)


def _called(name: str, names: Sequence[str]) -> str:
    label = name.removeprefix("class ")
    return names[int(label)] if label.isdecimal() and int(label) < len(names) else name


def _read(arrays: Mapping[str, NDArray[Any]]) -> Trigger | None:
    if "cues.patterns" in arrays and "examples.clean" in arrays:
        return _marks(arrays)
    if any(name in arrays for name in ("change.amount", "context.shift", "act.shift")) and "examples.clean" in arrays:
        return _change(arrays)
    if "trigger.mask" not in arrays or "trigger.shift" not in arrays:
        return None
    mask, shift = _array(arrays, "trigger.mask"), _array(arrays, "trigger.shift")
    if mask.ndim == 3 and shift.ndim == 3 and mask.shape[1:] == shift.shape[1:] and mask.size and shift.size:
        return _image(arrays, mask, shift)
    if mask.ndim == 1 and mask.shape == shift.shape and mask.size:
        return _table(arrays, mask, shift)
    raise InputError(
        "record-arrays",
        f"trigger.mask {list(mask.shape)} and trigger.shift {list(shift.shape)} do not fit each other; "
        "run the audit again",
    )


def _change(arrays: Mapping[str, NDArray[Any]]) -> Trigger:
    """A broad change has no shape of its own: what it does to inputs shows it."""
    shape = _array(arrays, "examples.clean").shape[1:]
    zero = np.zeros(shape)
    if len(shape) == 1:
        return _table(arrays, zero, zero)
    return replace(_image(arrays, np.zeros((1, *shape[1:])), zero), adds=None)


def _marks(arrays: Mapping[str, NDArray[Any]]) -> Trigger:
    """A mark for each class; what all of them have in common tells nothing and is left out."""
    patterns = _array(arrays, "cues.patterns")
    shape = _array(arrays, "examples.clean").shape[1:]
    if patterns.shape[1:] != shape or not len(patterns):
        raise InputError(
            "record-arrays",
            f"cues.patterns {list(patterns.shape)} do not fit an input of {list(shape)}; run the audit again",
        )
    own = patterns - patterns.mean(0)
    zero = np.zeros(shape)
    if len(shape) == 1:
        spread = own.std(0)
        return replace(_table({}, zero, spread), pairs=_table(arrays, zero, spread).pairs, by_class=True)
    most = float(np.abs(own).max())
    drawn = [
        pixels.picture(0.5 + each / (2 * most or 1.0), f"Mark of class {label}; mid-grey is nothing")
        for label, each in enumerate(own[:MARKS])
    ]
    shown = replace(_image(arrays, np.zeros((1, *shape[1:])), zero), adds=None, most=numerals.number(most))
    return replace(shown, marks=drawn, marks_left=max(0, len(own) - MARKS))


def _image(arrays: Mapping[str, NDArray[Any]], mask: Array, shift: Array) -> Trigger:
    clean, triggered = _examples(arrays, shift.shape)
    low, high = _range(arrays, shift.shape, clean, triggered)
    width = np.where(high > low, high - low, 1.0)
    before, after = _classes(arrays, len(clean))
    most = float(np.abs(shift).max())
    pairs = [
        Pair(
            before=pixels.picture((x - low) / width, f"Input, predicted {a}"),
            after=pixels.picture((y - low) / width, f"The same input with the trigger, predicted {b}"),
            predicted_before=a,
            predicted_after=b,
            moved=a != b,
        )
        for x, y, a, b in zip(clean, triggered, before, after, strict=True)
    ]
    return Trigger(
        image=True,
        mask=pixels.overlay(mask, "Mask of the trigger") if np.any(mask > 0) else None,
        adds=pixels.picture(0.5 + shift / (2 * most or 1.0), "What the trigger adds; mid-grey is nothing"),
        most=numerals.number(most),
        pairs=pairs,
        averaged=pixels.factor(*mask.shape[1:]),
    )


def _table(arrays: Mapping[str, NDArray[Any]], mask: Array, shift: Array) -> Trigger:
    clean, triggered = _examples(arrays, shift.shape)
    before, after = _classes(arrays, len(clean))
    moved = (triggered - clean).mean(0) if len(clean) else shift
    size = np.abs(moved)
    order = np.argsort(-size, kind="stable")
    order = order[size[order] > 0]
    top, most = order[:FEATURES], float(size.max())
    signed = bool(np.any(moved[top] < 0))
    features = [
        Feature(
            index=int(i),
            change=f"{'+' if moved[i] >= 0 else ''}{numerals.number(float(moved[i]))}",
            bar=charts.change(float(moved[i]), most, signed, f"Feature {i}"),
        )
        for i in top
    ]
    left = float(size[order[FEATURES:]].sum() / size.sum()) if size.sum() > 0 else 0.0
    return Trigger(
        image=False,
        mask=None,
        adds=None,
        most=numerals.number(most),
        pairs=[Pair(None, None, a, b, a != b) for a, b in zip(before, after, strict=True)],
        averaged=1,
        features=features,
        features_left=max(0, len(order) - FEATURES),
        share_left=numerals.percent(left),
        from_examples=bool(len(clean)),
    )


def _examples(arrays: Mapping[str, NDArray[Any]], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Up to `EXAMPLES` inputs before and after, [m, *shape] each."""
    if "examples.clean" not in arrays or "examples.triggered" not in arrays:
        return np.zeros((0, *shape)), np.zeros((0, *shape))
    clean, triggered = _array(arrays, "examples.clean"), _array(arrays, "examples.triggered")
    if clean.shape != triggered.shape or clean.shape[1:] != shape:
        raise InputError(
            "record-arrays",
            f"examples.clean {list(clean.shape)} and examples.triggered {list(triggered.shape)} "
            f"do not fit the trigger {list(shape)}; run the audit again",
        )
    return clean[:EXAMPLES], triggered[:EXAMPLES]


def _classes(arrays: Mapping[str, NDArray[Any]], n: int) -> tuple[list[str], list[str]]:
    if "examples.sensors" in arrays:
        return _sensors(arrays, "examples.yes_clean", n), _sensors(arrays, "examples.yes_triggered", n)
    return _named(arrays, "examples.predicted_clean", n), _named(arrays, "examples.predicted_triggered", n)


def _sensors(arrays: Mapping[str, NDArray[Any]], key: str, n: int) -> list[str]:
    """How many of the sensors are foretold to say yes."""
    whole = int(_array(arrays, "examples.sensors").reshape(-1)[:1].sum())
    values = _array(arrays, key).reshape(-1)[:n].tolist() if key in arrays else []
    names = [f"{round(v)} of {whole} yes" for v in values]
    return names + ["unknown"] * (n - len(names))


def _named(arrays: Mapping[str, NDArray[Any]], key: str, n: int) -> list[str]:
    values = _array(arrays, key).reshape(-1)[:n].tolist() if key in arrays else []
    names = [f"class {round(v)}" for v in values]
    return names + ["unknown"] * (n - len(names))


def _range(
    arrays: Mapping[str, NDArray[Any]], shape: tuple[int, ...], clean: Array, triggered: Array
) -> tuple[Array, Array]:
    """The lowest and highest value that an input cell can take, each broadcast to `shape`."""
    seen = np.concatenate([clean.reshape(-1), triggered.reshape(-1), [0.0]])
    low = _array(arrays, "range.low") if "range.low" in arrays else np.asarray(seen.min())
    high = _array(arrays, "range.high") if "range.high" in arrays else np.asarray(seen.max())
    return _fitted(low, shape), _fitted(high, shape)


def _fitted(bound: Array, shape: tuple[int, ...]) -> Array:
    """A scalar, one value a channel, or one a cell, as [C, H, W]."""
    if bound.size == 1:
        return np.full(shape, bound.reshape(-1)[0])
    if bound.size == shape[0]:
        return np.broadcast_to(bound.reshape(-1, 1, 1), shape)
    if bound.size == int(np.prod(shape)):
        return bound.reshape(shape)
    raise InputError("record-arrays", f"range {list(bound.shape)} does not fit an input of {list(shape)}")


def _array(arrays: Mapping[str, NDArray[Any]], key: str) -> Array:
    return np.nan_to_num(np.asarray(arrays[key], dtype=np.float64))
