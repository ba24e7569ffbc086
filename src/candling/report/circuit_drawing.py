"""A circuit as inline SVG: layers upward, heads across, a curve for each edge, as wide as its effect."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from candling.evidence.explanation import CircuitRecord, EdgeRow
from candling.report import numerals, svg

DRAWN = 80
"""Most edges that are drawn, the strongest."""

_NAME = re.compile(r"blocks\.(\d{1,4})\.(?:attn\.head_(out|[qkv]_in)\.(\d{1,4})|mlp\.(in|out))")
_PILL, _HIGH = 5.6, 24
_START, _ACROSS = 10, 72
_COLUMNS = 12  # heads of a layer that have room for a column each
_BAND, _FLAT = 104, 30
_PORTS = {"q": -1.7, "k": 0.0, "v": 1.7}

Place = tuple[int, str, int]
"""Layer, kind, index of a node."""


@dataclass(frozen=True)
class Drawing:
    chart: Markup
    drawn: int
    left: int
    """Edges that are not drawn."""


@dataclass(frozen=True)
class _Edge:
    sender: Place
    receiver: Place
    slot: str
    row: EdgeRow

    @property
    def effect(self) -> float:
        return self.row.score if self.row.effect is None else self.row.effect


def draw_circuit(circuit: CircuitRecord) -> Drawing:
    """The strongest edges; a key or value edge goes to every drawn head that reads that key-value head."""
    rows = sorted(circuit.rows, key=lambda row: -abs(row.score if row.effect is None else row.effect))
    edges = [edge for row in rows[:DRAWN] if (edge := _edge(row, circuit)) is not None]
    nodes = {edge.sender for edge in edges} | {edge.receiver for edge in edges if edge.slot not in ("k", "v")}
    edges = [each for edge in edges for each in _spread(edge, circuit, nodes)]
    nodes |= {edge.receiver for edge in edges}
    layout = _Layout(sorted(nodes), len(circuit.heads))
    most = max((abs(edge.effect) for edge in edges), default=0.0) or 1.0
    parts = [*layout.bands]
    for node in sorted(nodes, key=lambda node: -layout.y(node)):
        own = [edge for edge in edges if edge.sender == node]
        parts.append(_group(node, own, layout, most))
    label = f"{circuit.edges} edges from the embedding at the bottom to the logits at the top"
    drawn = len({id(edge.row) for edge in edges})
    return Drawing(svg.frame(parts, layout.height, label), drawn, circuit.edges - drawn)


def name_of(name: str) -> str:
    """A node as a person says it: `head 3.5`, `head 3.2 keys`, `MLP 4`."""
    found = _NAME.fullmatch(name)
    if found is None:
        return {"embed": "embedding"}.get(name, name)
    layer, slot, index, _ = found.groups()
    if index is None:
        return f"MLP {layer}"
    read = {"q_in": " queries", "k_in": " keys", "v_in": " values"}.get(slot, "")
    return f"head {layer}.{index}{read}"


def _edge(row: EdgeRow, circuit: CircuitRecord) -> _Edge | None:
    """None for names that this circuit cannot have."""
    depth = len(circuit.heads)
    sender, receiver = _place(row.sender, depth), _place(row.receiver, depth)
    if sender is None or receiver is None or not sender[0][0] < depth or not receiver[0][0] > -1:
        return None
    return _Edge(sender[0], receiver[0], receiver[1], row)


def _place(name: str, depth: int) -> tuple[Place, str] | None:
    """A node and, of a head's input, which one. The logits stand above the last layer."""
    ends = {"embed": (-1, "embed", 0), "logits": (depth, "logits", 0)}
    if name in ends:
        return ends[name], ""
    found = _NAME.fullmatch(name)
    if found is None or int(found[1]) >= depth:
        return None
    layer, slot, index, _ = found.groups()
    if index is None:
        return (int(layer), "mlp", 0), ""
    return (int(layer), "head", int(index)), "" if slot == "out" else slot[0]


def _spread(edge: _Edge, circuit: CircuitRecord, nodes: set[Place]) -> list[_Edge]:
    """An edge into keys or values once for each drawn head that reads them; into the first head if none is."""
    if edge.slot not in ("k", "v"):
        return [edge]
    layer, _, group = edge.receiver
    ratio = max(1, circuit.heads[layer] // max(1, circuit.groups[layer]))
    readers = [(layer, "head", group * ratio + i) for i in range(ratio)]
    drawn = [reader for reader in readers if reader in nodes] or readers[:1]
    return [_Edge(edge.sender, reader, edge.slot, edge.row) for reader in drawn]


class _Layout:
    """Where nodes stand: x in percent of the width, y in pixels."""

    def __init__(self, nodes: Sequence[Place], depth: int) -> None:
        self._x: dict[Place, float] = {}
        self._y: dict[Place, float] = {}
        self.bands: list[Markup] = []
        y = 44.0
        self._put((depth, "logits", 0), 47, 24)
        most = max((node[2] + 1 for node in nodes if node[1] == "head"), default=1)
        wide = most > _COLUMNS
        for layer in reversed(range(depth)):
            own = [node for node in nodes if node[0] == layer]
            heads = [node for node in own if node[1] == "head"]
            high = _BAND if own else _FLAT
            self.bands.append(svg.horizontal(0, 100, y, "grid"))
            words = f"layer {layer}" if own else f"layer {layer}: nothing"
            self.bands.append(svg.text(0, y + 19, words, "lane"))
            for place, node in enumerate(heads):
                share = (place + 0.5) / len(heads) if wide else (node[2] + 0.5) / most
                self._put(node, _START + _ACROSS * share, y + high - 30)
            for node in own:
                if node[1] == "mlp":
                    self._put(node, 91, y + 34)
            y += high
        self.bands.append(svg.horizontal(0, 100, y, "grid"))
        self._put((-1, "embed", 0), 47, y + 28)
        self.height = y + 48

    def _put(self, node: Place, x: float, y: float) -> None:
        self._x[node], self._y[node] = x, y

    def x(self, node: Place) -> float:
        return self._x[node]

    def y(self, node: Place) -> float:
        return self._y[node]


def _group(node: Place, edges: Sequence[_Edge], layout: _Layout, most: float) -> Markup:
    """A node with what it sends, so that both light up together; lower ones are drawn first, beneath the others."""
    shape = '<svg width="100%" height="{h}" viewBox="0 0 100 {h}" preserveAspectRatio="none">{curves}</svg>'
    curves = [_curve(edge, layout, most) for edge in sorted(edges, key=lambda edge: abs(edge.effect))]
    drawn = Markup(shape).format(h=svg.short(layout.height), curves=Markup("").join(curves)) if curves else Markup("")
    return Markup('<g class="sends">{}{}</g>').format(drawn, _pill(node, layout))


def _curve(edge: _Edge, layout: _Layout, most: float) -> Markup:
    x1, y1 = layout.x(edge.sender), layout.y(edge.sender) - _HIGH / 2
    x2, y2 = layout.x(edge.receiver) + _PORTS.get(edge.slot, 0.0), layout.y(edge.receiver) + _HIGH / 2
    bend = max(14.0, 0.45 * (y1 - y2))
    way = " ".join(svg.short(v) for v in (x1, y1))
    bends = ", ".join(f"{svg.short(x)} {svg.short(y)}" for x, y in ((x1, y1 - bend), (x2, y2 + bend), (x2, y2)))
    share = numerals.percent(edge.effect)
    measured = f"cut alone, {share} is lost" if edge.row.effect is not None else f"estimated at {share}, not measured"
    title = f"{name_of(edge.row.sender)} → {name_of(edge.row.receiver)}: {measured}"
    return Markup('<path class="edge {}" stroke-width="{}" d="M{} C{}"><title>{}</title></path>').format(
        "against" if edge.effect < 0 else "with", svg.short(0.8 + 7 * abs(edge.effect) / most), way, bends, title
    )


def _pill(node: Place, layout: _Layout) -> Markup:
    x, y = layout.x(node), layout.y(node)
    words = {"embed": "embedding", "logits": "logits", "mlp": "MLP"}.get(node[1], f"{node[0]}.{node[2]}")
    wide = 12 if node[1] in ("embed", "logits") else _PILL
    shape = (
        '<rect class="pill {kind}" x="{x}%" width="{w}%" y="{y}" height="{h}" rx="6"/>'
        '<text class="on" x="{middle}%" y="{base}" text-anchor="middle">{words}</text>'
    )
    return Markup(shape).format(
        kind=node[1],
        x=svg.short(x - wide / 2),
        w=svg.short(wide),
        y=svg.short(y - _HIGH / 2),
        h=_HIGH,
        middle=svg.short(x),
        base=svg.short(y + 4.5),
        words=words,
    )
