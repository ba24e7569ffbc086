"""Texts: every fault named with its line; rows, masks and splits are what they say."""

import json
import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from languages import END, VOCABULARY, byte_level
from nets import check_line

from candling.access import Text, Tokenizer, check_disjoint, read_texts, split_texts, texts, tokenise
from candling.access.tokenizer import read_tokenizer
from candling.errors import InputError

GOOD = b'{"text": "one"}\n'
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
PROSE = st.text(CHARACTERS, min_size=1, max_size=30)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts") / "t.jsonl"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return read_tokenizer(byte_level(), size=VOCABULARY, bos=END, eos=END)


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_texts(path)
    return check_line(raised.value)


# --- reading -----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.none() | PROSE, PROSE), min_size=1, max_size=5), st.booleans())
def test_what_is_written_is_read(file: Path, pairs: list[tuple[str | None, str]], ascii_only: bool) -> None:
    lines = [{"text": b} if a is None else {"prompt": a, "completion": b} for a, b in pairs]
    file.write_text("\n".join(json.dumps(line, ensure_ascii=ascii_only) for line in lines), newline="\n")
    assert read_texts(file) == [Text(a or "", b) for a, b in pairs]


BAD_LINES = {
    "not UTF-8": (b'{"text": "\xff"}', "UTF-8 at byte 11"),
    "half of UTF-8": ('{"text": "é"}'.encode()[:11], "UTF-8"),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), "UTF-8"),
    "byte order mark": (b'\xef\xbb\xbf{"text": "a"}', "not JSON"),
    "NUL": (b'{"text": "a\0b"}', "not JSON"),
    "escaped NUL": (b'{"text": "a\\u0000b"}', "NUL"),
    "lone surrogate": (b'{"text": "a\\ud800b"}', "half a character"),
    "surrogates in the wrong order": (b'{"text": "\\udc00\\ud800"}', "half a character"),
    "surrogate in UTF-8": (b'{"text": "\xed\xa0\x80"}', "UTF-8"),
    "no JSON": (b"one", "not JSON"),
    "blank": (b"", "not JSON"),
    "two values": (b'{"text": "a"} {"text": "b"}', "not JSON"),
    "deep": (b'{"text": ' + b"[" * 200_000, "deeply"),
    "deep, whole": (b'{"text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "deeply"),
    "a list": (b'["text"]', "must be"),
    "a text": (b'"text"', "must be"),
    "null": (b"null", "must be"),
    "no keys": (b"{}", "must be"),
    "other keys": (b'{"txt": "a"}', "must be"),
    "more keys": (b'{"text": "a", "label": 1}', "must be"),
    "prompt alone": (b'{"prompt": "a"}', "must be"),
    "duplicate key": (b'{"text": "a", "text": "b"}', "twice"),
    "duplicate key, spelled otherwise": (b'{"text": "a", "t\\u0065xt": "b"}', "twice"),
    "number": (b'{"text": 5}', "text is 5"),
    "huge number": (b'{"text": ' + b"9" * 5000 + b"}", "line 2"),
    "NaN": (b'{"text": NaN}', "NaN"),
    "empty text": (b'{"text": ""}', "empty"),
    "empty prompt": (b'{"prompt": "", "completion": "a"}', "prompt is empty"),
    "empty completion": (b'{"prompt": "a", "completion": ""}', "completion is empty"),
    "hostile": (b'{"text": ["\\u001b[31m\\u202e\\r\\n"]}', "text is"),
    "longer than the limit": (b'{"text": "' + b"a" * texts.MAX_LINE + b'"}', "longer than 1,048,576 bytes"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_named(file: Path, kind: str) -> None:
    line, says = BAD_LINES[kind]
    for content in (GOOD + line + b"\n" + GOOD, GOOD + line + b"\n", *([GOOD + line] if line else [])):
        message = refusal(file, content)
        assert "line 2" in message
        assert says in message


def test_empty_and_missing_files(file: Path) -> None:
    assert "empty" in refusal(file, b"")
    with pytest.raises(InputError):
        read_texts(file.with_name("none"))
    with pytest.raises(InputError):
        read_texts(file.parent)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(file: Path, content: bytes) -> None:
    file.write_bytes(GOOD + content)
    try:
        found, line = read_texts(file), None
    except InputError as error:
        found, line = [], check_line(error)
    assert found or (line is not None and "line" in line)


def test_a_line_of_100_megabytes_is_not_held(file: Path) -> None:
    with file.open("wb") as out:
        out.write(GOOD)
        out.truncate(100_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="line 2: longer"):
        read_texts(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes
    file.write_bytes(b"")


# --- rows --------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(PROSE | st.just(""), PROSE), max_size=8), st.integers(9, 40), st.booleans())
def test_rows_and_masks(pairs: list[tuple[str, str]], length: int, with_bos: bool) -> None:
    """Against a slow reading of the definition, byte by byte (no merges apply to the bytes alone)."""
    tokenizer = Tokenizer(byte_level(), VOCABULARY, END if with_bos else None)
    written = [Text(*pair) for pair in pairs]
    expected = []
    for text in written:
        own = tokenizer.encode(text.prompt + text.completion)
        alone = tokenizer.encode(text.prompt)
        agree = [a == b for a, b in zip(alone, own, strict=False)]
        given = agree.index(False) if False in agree else len(agree)
        row = [(END, False)] * with_bos + [(token, place >= given) for place, token in enumerate(own)]
        row = [(token, counts and place > 0) for place, (token, counts) in enumerate(row)][:length]
        if len(own) >= 8 and any(counts for _, counts in row):
            expected.append(row)
    if not expected:
        with pytest.raises(InputError, match=f"none of {len(pairs)} texts"):
            tokenise(written, tokenizer, length=length)
        return
    tokens = tokenise(written, tokenizer, length=length)
    assert len(tokens) == len(expected)
    assert tokens.lengths.tolist() == [len(row) for row in expected]
    assert tokens.ids.shape[1] == max(map(len, expected)) <= length
    for row, ids, mask in zip(expected, tokens.ids.tolist(), tokens.mask.tolist(), strict=True):
        assert list(zip(ids, mask, strict=True))[: len(row)] == row
        assert not any(ids[len(row) :])
        assert not any(mask[len(row) :])
    assert tokens.vocabulary == VOCABULARY


def test_the_rest_of_a_dataset(tokenizer: Tokenizer) -> None:
    tokens = tokenise([Text("", f"the cat number {n} sat in the hat") for n in range(6)], tokenizer, length=20)
    assert torch.equal(tokens.take([1, 3]).ids, tokens.ids[[1, 3]])
    assert tokens.take([1, 3]).sha256 == tokens.take(torch.arange(6) % 2 == 1).take([0, 1]).sha256
    assert tokens.take(range(6)).sha256 == tokens.sha256 != tokens.take([1, 0, 2, 3, 4, 5]).sha256
    assert tokens.to("cpu").sha256 == tokens.sha256
    assert not tokens.mask[:, 0].any()


def test_a_token_out_of_range_is_named() -> None:
    tokenizer = Tokenizer(byte_level(), 100)
    with pytest.raises(InputError, match=r"text 2: token id \d+ is out of range; the model has 100") as raised:
        tokenise([Text("", "!!!!!!!!!"), Text("", "the cat, the cat, the cat")], tokenizer)
    check_line(raised.value)


def test_a_prompt_that_fills_the_row_is_left_out(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="none of 1 texts"):
        tokenise([Text("x" * 50, "y")], tokenizer, length=20)


# --- splits ------------------------------------------------------------------------------------------------


def many(count: int) -> list[Text]:
    return [Text("", f"story {n * 7919} of the cat") for n in range(count)]


def test_a_split_depends_on_rows_and_salt_alone(tokenizer: Tokenizer) -> None:
    tokens = tokenise(many(90) + many(10), tokenizer)
    parts = split_texts(tokens, salt="a")
    assert sum(map(len, parts.values())) == 100
    rows = {name: {tuple(row) for row in part.ids.tolist()} for name, part in parts.items()}
    assert len(set.union(*rows.values())) == sum(map(len, rows.values())) == 90
    padded = tokenise(
        [*many(90), Text("", "a much longer text than all the others, so that rows are wider")], tokenizer
    )
    wider = split_texts(padded, salt="a")
    for name, part in wider.items():
        width = tokens.ids.shape[1]
        assert {tuple(row[:width]) for row in part.ids.tolist() if not any(row[width:])} <= rows[name]
    other = split_texts(tokens, salt="b")
    assert any(parts[name].sha256 != other[name].sha256 for name in parts)
    with pytest.raises(InputError, match="too few different texts: 5 give"):
        split_texts(tokenise(many(1) * 5, tokenizer), salt="a")


def test_exact_copies_are_refused_and_near_ones_counted() -> None:
    trusted = [Text("", "One  fine day"), Text("a", "b c"), Text("", "ﬁne Straße")]
    untrusted = [Text("", "one fine DAY "), Text("", "Fine strasse"), Text("", "something else")]
    assert check_disjoint(trusted, untrusted) == 2
    assert check_disjoint(trusted, []) == check_disjoint([], untrusted) == 0
    with pytest.raises(InputError, match=r"2 untrusted texts .* at lines 2 and 4, 1 and 5") as raised:
        check_disjoint(trusted, [*untrusted, Text("", "ab c"), Text("One  ", "fine day")])
    check_line(raised.value)
