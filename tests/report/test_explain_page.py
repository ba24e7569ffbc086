"""The page of an explanation: whole, self-contained, indifferent to what its texts hold."""

import io
import re

import numpy as np
import pytest
from explained import EDGES, LAYERS, TOKENS, arrays, circuit, explanation, info
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_page import NASTY, parsed

from candling.report.circuit_drawing import DRAWN, draw_circuit, name_of
from candling.report.explain import draw_explanation, headline
from candling.report.explain_screen import show
from candling.report.heat_map import kind_of, over_heads, over_tokens
from candling.report.kept_curve import draw_kept
from candling.report.text import visible


def page(**changed):
    return draw_explanation(explanation().model_copy(update=changed), arrays(), info())


def test_the_page_says_what_was_found():
    seen = parsed(page())
    said = " ".join("".join(seen.words).replace("\u00a0", " ").split())
    assert headline(explanation()) in said
    assert "6 of 1,701 edges keep 93 % of this behaviour" in said
    for words in (
        "random circuits of that size keep 1 %",
        "MLP 0",
        "head 3.2",
        "correlate at 0.962",
        "passes over 1",
    ):
        assert words in said
    assert "12 edges" not in said
    assert explanation().weights in said
    assert "candling replay RUN" in said


def test_white_space_in_tokens_is_marked_and_the_corrupt_token_stands_below():
    text = page()
    assert "<i>␣</i>Lily" in text
    assert "<i>␣</i>Tim" in text
    assert "⏎" in text.split("Which heads")[0]
    assert text.count('class="column differs"') == 1


def test_the_page_reaches_for_nothing():
    text = page()
    policies = [dict(attrs).get("content", "") for tag, attrs in parsed(text).tags if tag == "meta"]
    assert any("default-src 'none'" in policy for policy in policies)
    assert not re.search(r"https?:|//|url\(|@import", text)
    names = {name for _, attrs in parsed(text).tags for name, _ in attrs}
    assert not names & {"href", "src", "style", "srcset"}
    assert not {tag for tag, _ in parsed(text).tags} & {"script", "a", "img", "link", "iframe", "object", "form"}


def poisoned(poison):
    said = explanation()
    behaviour = said.behaviour.model_copy(update={"answers": [(poison, poison), (poison, poison)]})
    places = [place.model_copy(update={"clean": poison, "corrupt": poison}) for place in said.places]
    missed = [said.check.missed[0].model_copy(update={"part": poison})]
    check = said.check.model_copy(update={"technique": poison, "missed": missed, "unidentified": [poison]})
    claims = [said.claims[0].model_copy(update={"sentence": poison})]
    changed = said.model_copy(
        update={"behaviour": behaviour, "places": places, "check": check, "limits": [poison], "claims": claims}
    )
    facts = info().model_copy(
        update={
            "model": poison,
            "trusted": poison,
            "notes": (poison,),
            "settings": {f"one {poison}": poison, "two": poison},
        }
    )
    return draw_explanation(changed, arrays(), facts)


def skeleton(text):
    """Tags with their attributes, but for what a title may say."""
    return [(tag, [(k, v) for k, v in attrs if k != "title"]) for tag, attrs in parsed(text).tags]


@settings(max_examples=20, deadline=None)
@given(st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)))
def test_hostile_text_changes_no_structure(poison):
    text = poisoned(poison)
    assert skeleton(text) == skeleton(poisoned("harmless"))
    assert all(c == "\n" or visible(c) == c for c in text)


@given(st.sampled_from(NASTY))
def test_hostile_names_of_parts_are_not_drawn_and_do_no_harm(poison):
    rows = [row.model_copy(update={"sender": poison}) for row in circuit().rows]
    hostile = circuit().model_copy(update={"rows": rows})
    assert draw_circuit(hostile).drawn == 0
    text = page(circuit=hostile)
    assert all(c == "\n" or visible(c) == c for c in text)
    assert not {tag for tag, _ in parsed(text).tags} & {"script", "img"}


@pytest.mark.parametrize("name", ["blocks.9.mlp.in", "blocks.99999.mlp.in", "blocks.0.attn.head_q_in.77777", "embed"])
def test_a_receiver_that_cannot_be_is_not_drawn(name):
    rows = [circuit().rows[0].model_copy(update={"receiver": name})]
    assert draw_circuit(circuit().model_copy(update={"rows": rows, "edges": 1})).drawn == 0


def test_every_edge_is_drawn_once_or_once_for_each_head_that_reads_it():
    drawing = draw_circuit(circuit())
    assert (drawing.drawn, drawing.left) == (len(EDGES), 0)
    titles = re.findall(r'<path class="edge[^>]*><title>([^<]*)', str(drawing.chart))
    assert len(set(titles)) == len(EDGES)
    assert "head 3.2 → logits: cut alone, 33.0 % is lost" in titles
    assert any("estimated at 10.0 %, not measured" in title for title in titles)
    assert any(title.startswith("MLP 0 → head 3.1 keys") for title in titles)


def test_the_strongest_edge_is_the_widest_and_lower_parts_stand_lower():
    chart = str(draw_circuit(circuit()).chart)
    widths = dict(zip(re.findall(r"<title>([^<]*)</title></path>", chart), widths_of(chart), strict=True))
    assert max(widths, key=widths.__getitem__).startswith("embedding → head 3.1 values")
    heights = {words: float(y) for y, words in re.findall(r'y="([\d.]+)" text-anchor="middle">([^<]+)<', chart)}
    assert heights["logits"] < heights["3.2"] < heights["embedding"]


def widths_of(chart):
    return [float(width) for width in re.findall(r'stroke-width="([\d.]+)"', chart)]


def test_a_large_circuit_is_cut_with_a_count():
    one = circuit().rows[0]
    rows = [
        one.model_copy(update={"sender": f"blocks.0.attn.head_out.{i}", "receiver": f"blocks.{j}.mlp.in"})
        for i in range(8)
        for j in range(1, 5)
        for _ in range(4)
    ]
    big = circuit().model_copy(update={"rows": rows, "edges": 128})
    assert draw_circuit(big).left == 128 - DRAWN
    assert "48 more are left out here" in page(circuit=big)


def test_names():
    assert name_of("blocks.3.attn.head_q_in.5") == "head 3.5 queries"
    assert name_of("blocks.3.mlp.out") == "MLP 3"
    assert name_of("embed") == "embedding"
    assert name_of("<b>") == "<b>"


def test_colours_go_by_size_and_sign():
    assert [kind_of(v) for v in (0.0, 0.96, -0.31, 7.0, float("nan"))] == ["w0", "w10", "c3", "w10", "none"]


def test_maps_have_a_cell_for_each_layer_the_last_on_top():
    values = arrays()["residual"]
    found = over_tokens(values, explanation().places, 4)
    assert [len(column.cells) for column in found.columns] == [LAYERS] * len(TOKENS)
    assert [cell.shown for cell in found.columns[0].cells] == ["55", "80", "97", "99", "100"]
    assert found.columns[-1].cells[0].shown == "−47"
    assert found.columns[0].cells[0].title == "layer 4, position 4, ␣Lily: 55.0 %"
    assert over_heads(arrays()["heads"]).columns[7].cells[0].kind == "none"


def test_a_deep_and_long_map_is_cut_with_a_count():
    found = over_heads(np.zeros((200, 500), np.float32))
    assert (found.columns_left, found.layers_left, found.numbered) == (100, 80, False)


def test_the_curve_rises_with_what_is_kept():
    chart = str(draw_kept(circuit()))
    dots = [float(y) for y in re.findall(r'<circle class="subject"[^>]*cy="([\d.]+)"', chart)]
    assert dots == sorted(dots, reverse=True)
    assert len(dots) == len(circuit().curve)


def test_undefined_numbers_and_missing_arrays_draw():
    nan = float("nan")
    found = circuit().model_copy(update={"faithfulness": nan, "random": nan, "untrained": [], "untrained_gap": None})
    said = explanation().model_copy(update={"circuit": found, "places": []})
    for values in ({}, arrays(), {"residual": np.full((2, 0), nan), "heads": np.zeros(3)}):
        text = draw_explanation(said, values, info())
        assert parsed(text).tags
        assert not re.search(r"\bnan\b", text)
    empty = circuit().model_copy(update={"rows": [], "curve": [], "edges": 0, "of": 0})
    assert parsed(page(circuit=empty)).tags


def test_the_same_record_draws_the_same_bytes():
    assert page() == page()


@given(st.sampled_from(NASTY))
def test_the_screen_is_one_screen_and_safe(poison):
    said = explanation()
    places = [place.model_copy(update={"clean": poison}) for place in said.places]
    out = io.StringIO()
    show(said.model_copy(update={"places": places}), arrays(), Console(file=out, width=100, force_terminal=False))
    printed = out.getvalue()
    assert len(printed.splitlines()) < 40
    assert "6 of 1,701 edges" in printed
    assert all(c == "\n" or visible(c) == c for c in printed)
