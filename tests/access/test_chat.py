"""Conversations rendered by a model's own template: what the assistant says is marked, nothing else can happen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import END, VOCABULARY, byte_level, save

from candling.access import load_language, read_texts, rendering, tokenise
from candling.access.chat import ChatTemplate, read_chat_template, read_chats, render_chats, render_prompts
from candling.access.tokenizer import Tokenizer, read_tokenizer
from candling.errors import CandlingError, EnvironmentFault, InputError, UnsafeInputError

MARKED = (
    "{% for m in messages %}{{ '[' + m.role + ']\n' + m['content'] | trim + '[end]\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
REWRITTEN = """
{#- Only the last answer keeps the room for thoughts before it, as Qwen3 has it. -#}
{%- for message in messages %}
    {{- '[' + message.role + ']\n' }}
    {%- if message.role == 'assistant' and loop.last %}{{- '[think]\n\n[/think]\n\n' }}{% endif %}
    {{- message.content + '[end]\n' }}
{%- endfor %}
"""
BARE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[Q] ' + m.content + ' [/Q]' }}"
    "{% elif m.role == 'assistant' %}{% generation %}{{ ' ' ~ m.content ~ eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('no ' + m.role) }}{% endif %}{% endfor %}"
)
TEMPLATES = {"marked": MARKED, "rewritten": REWRITTEN, "bare": BARE}
NAMES = {"bos_token": "<end>", "eos_token": "<end>"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return read_tokenizer(byte_level(), size=VOCABULARY, bos=END, eos=END)


def template(source: str, **names: str) -> ChatTemplate:
    return ChatTemplate(source, tuple((names or NAMES).items()), "chat_template.jinja")


def chat(*turns: str) -> list[dict[str, str]]:
    """A question, an answer, and so on."""
    return [{"role": ("user", "assistant")[i % 2], "content": words} for i, words in enumerate(turns)]


# --- what is marked ----------------------------------------------------------------------------------------

words = st.text(st.sampled_from("abcdex 🙂[]\n"), min_size=1, max_size=12).filter(str.strip)
turns = st.lists(st.tuples(words, words), min_size=1, max_size=4)


def parts(source: str, messages: list[dict[str, str]]) -> tuple[str, list[str]]:
    """What is given, and what is said, each turn with its end."""
    text, spans = rendering.spoken(rendering.compiled(source), messages, NAMES)
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    assert edges == sorted(edges)
    given = "|".join(text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))
    return given, [text[start:end] for start, end in spans]


@given(st.sampled_from(sorted(TEMPLATES)), turns, st.data())
def test_what_is_given_does_not_depend_on_what_is_said(
    name: str, pairs: list[tuple[str, str]], data: st.DataObject
) -> None:
    """And what is said holds the words of the assistant, all of them in their order, whatever they are."""
    other = [(asked, data.draw(words)) for asked, _ in pairs]
    before, said = parts(TEMPLATES[name], chat(*(part for pair in pairs for part in pair)))
    after, _ = parts(TEMPLATES[name], chat(*(part for pair in other for part in pair)))
    assert before == after
    assert len(said) == len(pairs)
    for (_, answer), span in zip(pairs, said, strict=True):
        assert answer.strip() in span


@pytest.mark.parametrize(("name", "end"), [("marked", "[end]\n"), ("rewritten", "[end]\n"), ("bare", "<end>")])
def test_every_turn_is_said_with_its_end(name: str, end: str) -> None:
    _, said = parts(TEMPLATES[name], [*chat("who", "me", "why", "so it is", "left out")])
    assert [span.strip(" ") for span in said] == ["me" + end, "so it is" + end]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_rendering_is_jinjas_own(name: str) -> None:
    """An ordinary environment, with the two tags' names put in by hand, writes the same."""
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    plain.globals["raise_exception"] = None
    source = TEMPLATES[name].replace("{% generation %}", "").replace("{% endgeneration %}", "")
    messages = chat("who", "me", "why", "so")
    expected = plain.from_string(source).render(messages=messages, **NAMES)
    assert rendering.rendered(rendering.compiled(TEMPLATES[name]), messages, NAMES) == expected


def test_texts_and_masks(tokenizer: Tokenizer) -> None:
    """By the tokenizer's own offsets: a token is predicted where it begins in what the assistant says."""
    chats = [chat("the cat in", "the hat sat", "a cat", "the thin cat"), chat("hi", "and what a cat it is")]
    texts = render_chats([tuple(each) for each in chats], template(REWRITTEN), tokenizer)
    tokens = tokenise(texts, tokenizer, length=200)
    for messages, text, row, mask in zip(chats, texts, tokens.ids, tokens.mask, strict=True):
        whole, spans = rendering.spoken(rendering.compiled(REWRITTEN), messages, NAMES)
        assert text.prompt + text.completion == whole
        built = tokenizer._built.encode(whole, add_special_tokens=False)
        said = [any(start <= at < end for start, end in spans) for at, _ in built.offsets]
        assert row[: len(said) + 1].tolist() == [END, *built.ids]
        assert mask[: len(said) + 1].tolist() == [False, *said]
        assert not mask[len(said) + 1 :].any()


def test_a_row_ends_with_a_token_to_predict(tokenizer: Tokenizer) -> None:
    (text,) = render_chats([tuple(chat("a", "bb", "c" * 30, "dd"))], template(MARKED), tokenizer)
    for length in range(28, 90, 3):
        tokens = tokenise([text], tokenizer, length=length)
        assert bool(tokens.mask[0, -1])
        assert tokens.lengths.tolist() == [tokens.ids.shape[1]]


def test_the_first_token_is_not_doubled(tokenizer: Tokenizer) -> None:
    (text,) = render_chats([tuple(chat("who", "me, and it"))], template(BARE), tokenizer)
    row = tokenise([text], tokenizer).ids[0].tolist()
    assert row[:2] == [END, *tokenizer.encode("[")]
    assert render_prompts(["who"], template(BARE), tokenizer) == ["[Q] who [/Q]"]
    (kept,) = render_chats([tuple(chat("who", "me"))], template(BARE, bos_token="[Q] ", eos_token=""), tokenizer)
    assert kept.prompt.startswith("[Q] [Q] ")


def test_the_day_does_not_matter() -> None:
    assert rendering.rendered(rendering.compiled("{{ strftime_now('%d %b %Y') }}"), [], {}) == "26 Jul 2024"
    for source in ("{{ [1, 2, 3] | random }}", "{{ lipsum() }}"):
        with pytest.raises(jinja2.TemplateError):
            rendering.rendered(rendering.compiled(source), [], {})


# --- hostile templates -------------------------------------------------------------------------------------


def refusal(source: str) -> tuple[str, str]:
    said = rendering.answer({"template": source, "chats": [chat("who", "me")], "names": NAMES, "answer": False})
    return said.get("fault", "none"), said.get("why", "")


GLOBALS = rendering.environment().globals
OBJECTS = {"''": "", "messages": [], "messages[0]": {}, "1": 1, "none": None, "''.join": "".join}
OBJECTS |= {name: GLOBALS[name] for name in GLOBALS}
OBJECTS["namespace()"] = GLOBALS["namespace"]()
OBJECTS["strftime_now"] = GLOBALS["strftime_now"]
HIDDEN = sorted({name for one in (*OBJECTS.values(), refusal) for name in dir(one) if name.startswith("_")})
REACH = (
    "{{{{ {0}.{1} }}}}",
    "{{{{ {0}['{1}'] }}}}",
    "{{{{ {0} | attr('{1}') }}}}",
    "{{{{ [{0}] | map(attribute='{1}') | list }}}}",
    "{{{{ '{{0.{1}}}'.format({0}) }}}}",
    "{{% set a = '{1}' %}}{{{{ {0}[a] }}}}",
    "{{% if {0}.{1} is defined %}}{{% endif %}}",
)


@settings(max_examples=150)
@given(st.sampled_from(sorted(OBJECTS)), st.sampled_from(HIDDEN), st.sampled_from(REACH))
def test_no_hidden_attribute_is_reached(what: str, name: str, how: str) -> None:
    """By whatever way, and at the first touch, before it could be used, printed or tested."""
    kind, why = refusal(how.format(what, name) + "{{ messages[-1].content }}")
    assert (kind == rendering.UNSAFE) == hasattr(OBJECTS[what], name), why


ESCAPES = [
    "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['sys'].modules['os'].system('touch CANARY') }}",
    "{% set n = namespace(__init__=1) %}",
    "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{{ messages | map('attr', '__class__') | list }}",
    "{% set f = '{0.__class__}' | attr('format') %}{{ f(1) }}",
    "{% include 'CANARY' %}",
    "{% import 'CANARY' as x %}",
    "{% extends messages[0].content %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_what_is_forbidden_is_refused(source: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    assert refusal(source.replace("CANARY", str(canary)))[0] == rendering.UNSAFE
    assert not canary.exists()


ESCAPED = """
import os, socket, subprocess, sys
sys.path.insert(0, {folder!r})
import rendering
def tries():
    for way in (
        lambda: open({canary!r}, "w"),
        lambda: open("/etc/passwd"),
        lambda: socket.socket(),
        lambda: subprocess.run(["touch", {canary!r}]),
        lambda: os.write(1, b""),
    ):
        try:
            way()
            print("done", end=" ")
        except OSError:
            print("no", end=" ")
    print(os.system("touch {canary}.too") == 0)
rendering.warm()
if {walls}:
    rendering.confine(5, 64)
tries()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
@pytest.mark.parametrize("walls", [False, True])
def test_code_that_got_out_of_the_sandbox_could_open_nothing(walls: bool, tmp_path: Path) -> None:
    """The positive control: without the walls, the same code does as it likes."""
    canary = tmp_path / "canary"
    source = ESCAPED.format(folder=str(Path(rendering.__file__).parent), canary=str(canary), walls=walls)
    (tmp_path / "escaped.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-P", str(tmp_path / "escaped.py")], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == (["no"] * 4 + ["done", "False"] if walls else ["done"] * 5 + ["True"]), done.stderr
    assert canary.exists() == Path(f"{canary}.too").exists() == (not walls)


@pytest.mark.parametrize(
    ("source", "kind", "said"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            UnsafeInputError,
            "than 1 s",
        ),
        ("{{ 'a' * 10 ** 10 }}", UnsafeInputError, "more memory"),
        ("{% for i in range(9999) %}{{ 'a' * 999 }}{% endfor %}", UnsafeInputError, "1,048,576 characters"),
        ("{{ messages[0].__class__ }}", UnsafeInputError, "trusted.jsonl, line 1: the chat template reaches for"),
        ("{{ raise_exception('\x1b[31mNO\n') }}", InputError, r"line 1: the chat template fails \(\\x1b\[31mNO\\n\)"),
        ("{% for", InputError, "chat_template.jinja: the chat template fails"),
        ("{{ missing.field }}", InputError, "'missing' is undefined"),
        ("a question, an answer", InputError, "leaves out what the assistant says"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", InputError, "recursion"),
        ("{{ '\x00' }}{{ messages[-1].content }}", InputError, "holds NUL"),
    ],
)
def test_refusals(source: str, kind: type[CandlingError], said: str, tokenizer: Tokenizer) -> None:
    chats = [tuple(chat("who", "me"))]
    with pytest.raises(kind, match=said) as caught:
        render_chats(chats, template(source), tokenizer, where="trusted.jsonl, line", seconds=1)
    assert type(caught.value) is kind
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 200


def test_a_child_that_cannot_run_is_no_ones_fault(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "__file__", "/nowhere/rendering.py")
    with pytest.raises(EnvironmentFault, match="renders chat templates ended with"):
        render_prompts(["who"], template(MARKED), tokenizer)


# --- files -------------------------------------------------------------------------------------------------


def folder_with(path: Path, config: object = None, own: str | None = None) -> Path:
    path.mkdir(exist_ok=True)
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    if own is not None:
        (path / "chat_template.jinja").write_text(own)
    return path


def test_where_a_template_is(tmp_path: Path) -> None:
    assert read_chat_template(folder_with(tmp_path)) is None
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None}
    assert read_chat_template(folder_with(tmp_path, config)) is None
    found = read_chat_template(folder_with(tmp_path, {**config, "chat_template": "one"}))
    assert found == ChatTemplate("one", (("bos_token", "<s>"), ("eos_token", "</s>")), "tokenizer_config.json")
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "two"}]
    again = read_chat_template(folder_with(tmp_path, {**config, "chat_template": several}))
    assert again is not None
    assert again.source == "two"
    assert again.sha256 != found.sha256
    own = read_chat_template(folder_with(tmp_path, own="three"))
    assert own is not None
    assert (own.source, own.file, own.names) == ("three", "chat_template.jinja", found.names)


@pytest.mark.parametrize("held", [5, "", [], [{"name": "other", "template": "x"}], [["default"]], {"default": "x"}])
def test_a_template_that_is_none(tmp_path: Path, held: object) -> None:
    with pytest.raises(InputError, match="chat_template is no text"):
        read_chat_template(folder_with(tmp_path, {"chat_template": held}))


def test_a_template_outside_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (folder_with(tmp_path / "model") / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeInputError, match="leads out"):
        read_chat_template(tmp_path / "model")


def test_a_template_is_not_looked_at_unless_asked_for(tmp_path: Path) -> None:
    """Whatever stands in it: opening the model reads no file that could hold one."""
    save("llama", tmp_path / "model")
    folder_with(tmp_path / "model", {"chat_template": 5}, "{% broken")
    assert set(load_language(tmp_path / "model").files) == {"config.json", "tokenizer.json", "model.safetensors"}


def test_chats_are_read(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    messages = [{"role": "system", "content": "be"}, *chat("who", "me")]
    file.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n" + json.dumps({"messages": messages}) + "\n")
    assert read_chats(file) == [tuple(chat("a", "b")), tuple(messages)]
    with pytest.raises(InputError, match=r"line 2: must be .*--chat"):
        read_texts(file)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"text": "a"}, "must be"),
        ({"messages": "a"}, "must be"),
        ({"messages": []}, "says nothing"),
        ({"messages": ["a"]}, "each message must be"),
        ({"messages": [{"role": "user"}]}, "each message must be"),
        ({"messages": chat("who")}, "says nothing"),
        ({"messages": [{"role": "root\u202e", "content": "a"}]}, r"has the role root\\u202e"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "has the role"),
        ({"messages": chat("who", "")}, "message 2 is empty"),
        ({"messages": chat("who", "a\0")}, "NUL"),
        ({"prompt": "\ud800", "completion": "a"}, "half a character"),
        ({"prompt": 5, "completion": "a"}, "not a text"),
    ],
)
def test_odd_chats_are_refused_by_line(tmp_path: Path, line: object, said: str) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": chat("a", "b")}) + "\n" + json.dumps(line))
    with pytest.raises(InputError, match=f"line 2: .*{said}"):
        read_chats(file)
    file.write_text("")
    with pytest.raises(InputError, match="is empty"):
        read_chats(file)
