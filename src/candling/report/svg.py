"""The few SVG shapes that the charts are made of. Every string passes through `visible` and is escaped."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from candling.report.text import visible

_MARKERS = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
    "M-3.6 -3.6H3.6V3.6H-3.6Z",
    "M0 -4.6L4.4 3.4H-4.4Z",
    "M0 -5L5 0L0 5L-5 0Z",
    "M0 4.6L4.4 -3.4H-4.4Z",
    "M-1.4 -4.4H1.4V-1.4H4.4V1.4H1.4V4.4H-1.4V1.4H-4.4V-1.4H-1.4Z",
)


def short(value: float) -> str:
    """A coordinate with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def frame(parts: Iterable[Markup], height: float, label: str) -> Markup:
    """A chart as wide as its container, `height` pixels high, with `label` for those who cannot see it."""
    return Markup('<svg class="chart" width="100%" height="{}" role="img"><title>{}</title>{}</svg>').format(
        short(height), visible(label), Markup("").join(parts)
    )


def text(x: float, y: float, words: str, kind: str) -> Markup:
    """A label at `x` percent, anchored so that it stays within the chart."""
    anchor = "start" if x < 6 else "end" if x > 94 else "middle"
    return Markup('<text class="{}" x="{}%" y="{}" text-anchor="{}">{}</text>').format(
        kind, short(x), short(y), anchor, visible(words)
    )


def vertical(x: float, y1: float, y2: float, kind: str) -> Markup:
    """A vertical line at `x` percent."""
    shape = '<line class="{0}" x1="{1}%" x2="{1}%" y1="{2}" y2="{3}"/>'
    return Markup(shape).format(kind, short(x), short(y1), short(y2))


def horizontal(x1: float, x2: float, y: float, kind: str) -> Markup:
    """A horizontal line from `x1` to `x2` percent."""
    shape = '<line class="{0}" x1="{1}%" x2="{2}%" y1="{3}" y2="{3}"/>'
    return Markup(shape).format(kind, short(x1), short(x2), short(y))


def box(x: float, width: float, kind: str) -> Markup:
    """A bar of 14 pixels from `x` percent."""
    shape = '<rect class="{}" x="{}%" width="{}%" y="3" height="14"/>'
    return Markup(shape).format(kind, short(x), short(width))


def area(x1: float, x2: float, y1: float, y2: float, kind: str) -> Markup:
    """A rectangle from `x1` to `x2` percent."""
    shape = '<rect class="{}" x="{}%" width="{}%" y="{}" height="{}"/>'
    return Markup(shape).format(kind, short(x1), short(x2 - x1), short(y1), short(y2 - y1))


def named(x: float, y: float, name: str, side: str = "") -> Markup:
    """A name beside a line at `x` percent; `side` is its anchor, by default one that keeps it in the chart."""
    anchor = side or ("start" if x < 30 else "end" if x > 70 else "middle")
    return Markup('<text class="named" x="{}%" y="{}" text-anchor="{}">{}</text>').format(
        short(x), short(y), anchor, visible(name).replace(" %", "\u00a0%")
    )


def dot(x: float, y: float, radius: float, kind: str, title: str) -> Markup:
    """A disc with a title for the pointer that rests on it."""
    shape = '<circle class="{}" cx="{}%" cy="{}" r="{}"><title>{}</title></circle>'
    return Markup(shape).format(kind, short(x), short(y), short(radius), visible(title))


def sign(x: float, y: float, index: int, kind: str, title: str) -> Markup:
    """The marker of plant family number `index`, with a title."""
    shape = '<svg class="sign" x="{}%" y="{}"><path class="{}" d="{}"><title>{}</title></path></svg>'
    return Markup(shape).format(short(x), short(y), kind, _MARKERS[index % len(_MARKERS)], visible(title))


def legend(index: int, kind: str) -> Markup:
    """The same marker on its own, to stand in a table."""
    shape = '<svg class="marker" viewBox="-7 -7 14 14" aria-hidden="true"><path class="{}" d="{}"/></svg>'
    return Markup(shape).format(kind, _MARKERS[index % len(_MARKERS)])
