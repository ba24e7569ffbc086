import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from example import record
from hostile import poisoned
from hypothesis import given, settings
from hypothesis import strategies as st
from spoken import language, repaired, with_untrusted

from candling.errors import InputError
from candling.evidence.control import Networks
from candling.evidence.verdict import Verdicts
from candling.report import draw, headline, seal
from candling.report.page import ROWS
from candling.report.text import visible

VOID = {"meta", "br", "hr", "img", "input", "link"}
NASTY = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></svg></style><style>*{display:none}",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "https://evil.example/?q=<a href='https://evil.example'>",
    "data:text/html,<script>alert(1)</script>",
    "\u202egnp.exe\u2066\u200b\ufeff",
    "\x1b]8;;http://evil.example\x07click\x1b[2J\r\n\x00",
    "{0} {name} %s",
    "&lt;b&gt;&#x202e;",
    "]]><![CDATA[",
    "a" * 5000,
    "",
]


class Skeleton(HTMLParser):
    """Tags and attributes in order, checking that every tag is closed where it should be."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, tuple(attrs)))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def parsed(page):
    parser = Skeleton()
    parser.feed(page)
    parser.close()
    assert not parser.open
    return parser


def page(run, **options):
    return draw(run.verdicts, run.networks, run.arrays, run.info, **options)


def numbered(poison):
    """`poison` in the place of every text, numbered so that different texts stay different."""
    numbers = {}
    return lambda text: f"{poison}{numbers.setdefault(text, len(numbers))}"


@pytest.mark.parametrize("answer", ["found", "not found", "inconclusive"])
@pytest.mark.parametrize("kind", ["8x8", "28x28", "rgb", "large", "table"])
def test_the_page_is_whole(answer, kind):
    run = record(answer, kind)
    seen = parsed(page(run))
    said = " ".join("".join(seen.words).replace("\u00a0", " ").split())
    assert headline(run.verdicts.verdicts[0]) in said
    assert {"found": "Found", "not found": "Not found", "inconclusive": "Inconclusive"}[answer] in said
    assert run.verdicts.subject.weights in said
    assert "candling replay RUN" in said
    assert all(item in said for item in run.verdicts.verdicts[0].not_tested)


@pytest.mark.parametrize("answer", ["found", "not found", "inconclusive"])
@pytest.mark.parametrize("make", [record, language])
def test_the_page_reaches_for_nothing(answer, make):
    text = page(with_untrusted(repaired(make(answer))))
    policies = [dict(attrs).get("content", "") for tag, attrs in parsed(text).tags if tag == "meta"]
    assert any("default-src 'none'" in policy for policy in policies)
    assert not re.search(r"https?:|//|url\(|@import", text)
    assert not {name for _, attrs in parsed(text).tags for name, _ in attrs} & {
        "href",
        "src",
        "style",
        "srcset",
    }
    assert not {tag for tag, _ in parsed(text).tags} & {
        "script",
        "a",
        "img",
        "link",
        "iframe",
        "object",
        "form",
    }


@settings(max_examples=25, deadline=None)
@given(
    st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=30)),
    st.sampled_from(["found", "not found", "inconclusive"]),
    st.sampled_from(["8x8", "table"]),
)
def test_hostile_text_changes_no_structure(poison, answer, kind):
    run = record(answer, kind)
    text = page(poisoned(run, numbered(poison)))
    assert parsed(text).tags == parsed(page(run)).tags
    assert all(c == "\n" or visible(c) == c for c in text)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["found", "not found", "inconclusive"]),
    st.sets(
        st.sampled_from(
            ["p_value", "sensitivity", "false_positive_rate", "negatives_confirmed", "baseline", "finding"]
        )
    ),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_whatever_is_missing_the_page_draws(answer, missing, no_likeness, no_rows, no_arrays):
    run = record(answer).with_verdict(**dict.fromkeys(missing))
    verdicts = run.verdicts
    if no_likeness:
        verdicts = verdicts.model_copy(
            update={"controls": verdicts.controls.model_copy(update={"resemblance": None})}
        )
    rows = Networks(rows=[]) if no_rows else run.networks
    assert parsed(draw(verdicts, rows, {} if no_arrays else run.arrays, run.info)).tags


@pytest.mark.parametrize("answer", ["found", "not found", "inconclusive"])
def test_the_page_of_a_language_model_speaks_of_tokens(answer):
    run = language(answer)
    seen = parsed(page(run))
    said = " ".join("".join(seen.words).replace("\u00a0", " ").split())
    assert headline(run.verdicts.verdicts[0]) in said
    assert "Next-token accuracy on trusted texts" in said
    assert "nats a token" in said
    assert "512 tokens in the vocabulary, at most 256 in a text" in said
    assert run.verdicts.controls.soup in said
    assert run.verdicts.subject.reference in said
    assert "smallest trigger" not in said
    assert "class 1" not in said.replace("held-out inputs to class 1", "")
    assert ("Mean of clean fine-tunes" in said.split("Cost and provenance")[0]) == (answer == "found")


def test_a_run_that_trained_no_control_says_so():
    run = language("inconclusive")
    controls = run.verdicts.controls.model_copy(update={"n": 0, "recipe": "none trained", "resemblance": None})
    text = page(
        replace(run, verdicts=run.verdicts.model_copy(update={"controls": controls}), networks=Networks(rows=[]))
    )
    assert "No controls: <bdi>none trained</bdi>" in text
    assert "no control was trained" in text
    assert "1/1" not in text


def test_empty_lists_draw():
    run = record("found")
    first = run.verdicts.verdicts[0]
    run = run.with_verdict(
        not_tested=[],
        claims=[],
        sensitivity=first.sensitivity.model_copy(
            update={"by_dose": [], "by_family": [], "worst_family": None, "detection_limit": None}
        ),
        finding=first.finding.model_copy(update={"located": None, "size_in_controls": []}),
    )
    assert parsed(page(run)).tags
    spoken = with_untrusted(repaired(language()), texts=0)
    found = spoken.verdicts.verdicts[0].finding
    nothing = found.sequence.model_copy(update={"tokens": [], "ids": [], "contexts": []})
    spoken = spoken.with_verdict(finding=found.model_copy(update={"sequence": nothing}))
    assert parsed(page(spoken)).tags
    bare = run.verdicts.model_copy(update={"verdicts": []})
    assert "holds no verdict" in draw(bare, Networks(rows=[]), {}, run.info)


def test_undefined_numbers_draw():
    def undefined(data):
        if isinstance(data, float):
            return "NaN"
        if isinstance(data, dict):
            return {k: undefined(v) for k, v in data.items()}
        return [undefined(v) for v in data] if isinstance(data, list) else data

    run = with_untrusted(repaired(record("found")))
    verdicts = Verdicts.model_validate(undefined(run.verdicts.model_dump(by_alias=True, mode="json")))
    networks = Networks.model_validate(undefined(run.networks.model_dump(mode="json")))
    text = draw(verdicts, networks, run.arrays, run.info)
    assert parsed(text).tags
    assert not re.search(r"\bnan\b", text)


def test_only_one_class_is_disclosed_and_the_rest_sealed():
    run = record("found")
    first = run.verdicts.verdicts[0]
    other = first.model_copy(update={"problem": "shortcut", "reason": "a secret reason", "not_tested": ["a secret"]})
    verdicts = run.verdicts.model_copy(update={"verdicts": [first, other]})
    secret = run.networks.rows[0].model_copy(update={"problem": "shortcut", "lead": "a secret lead"})
    networks = Networks(rows=[*run.networks.rows, secret])
    shown = draw(verdicts, networks, run.arrays, run.info, only="backdoor")
    assert "secret" not in shown
    assert seal(other) in shown
    assert seal(first) not in shown
    assert "secret reason" in draw(verdicts, networks, run.arrays, run.info)
    turned = draw(verdicts, networks, run.arrays, run.info, only="shortcut")
    assert seal(first) in turned
    assert "negative-00" not in turned
    assert 'class="pixels"' not in turned
    with pytest.raises(InputError, match="no class"):
        draw(verdicts, networks, run.arrays, run.info, only="nothing \u202e")


def test_sealing_covers_the_sequence_the_repair_and_the_untrusted_texts():
    run = with_untrusted(repaired(language(), basis="a secret basis"))
    first = run.verdicts.verdicts[0]
    other = record().verdicts.verdicts[0].model_copy(update={"problem": "shortcut"})
    both = replace(run, verdicts=run.verdicts.model_copy(update={"verdicts": [first, other]}))
    shown = page(both, only="shortcut")
    assert 'class="token' not in shown
    assert "secret" not in shown
    assert seal(first) in shown
    assert seal(run.verdicts.untrusted) in shown
    assert "Untrusted texts" not in shown
    assert "untrusted texts" in page(both, only="backdoor")
    assert seal(run.verdicts.untrusted) in page(both, only="backdoor")
    assert seal(run.verdicts.untrusted) not in page(both)
    said = first.finding.sequence.model_copy(update={"target": " X"})
    changed = first.finding.model_copy(update={"sequence": said})
    assert seal(first.model_copy(update={"finding": changed})) != seal(first)
    assert seal(first.model_copy(update={"repair": first.repair.model_copy(update={"cost": 0.5})})) != seal(first)
    assert seal(first.model_copy(update={"repair": None})) != seal(first)


def test_the_seal_fixes_the_verdict_as_the_files_keep_it():
    first = record("found").verdicts.verdicts[0]
    assert re.fullmatch("[0-9a-f]{64}", seal(first))
    assert seal(first) != seal(first.model_copy(update={"reason": "another"}))
    assert seal(first.model_copy(update={"threshold": 0.05000000001})) == seal(first)
    assert seal(first.model_copy(update={"threshold": 0.051})) != seal(first)


def test_a_large_run_is_cut_with_a_count():
    run = record("not found", negatives=130)
    text = page(run)
    assert parsed(text).words.count("negative-00") == 1
    rows = re.search(r"<tbody>\n<tr><td class=\"name\">.*?</tbody>", text, re.S).group().count("<tr>")
    assert rows == ROWS
    assert "61 more networks left out" in text


def test_the_same_record_draws_the_same_bytes():
    assert page(record("found", "rgb")) == page(record("found", "rgb"))
