"""Pairs: every fault named with its line; rows, answers and halves are what they say."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from languages import END, VOCABULARY, byte_level
from nets import check_line

from candling.access import Tokenizer
from candling.access.pairs import Pairs, PromptPair, halves, read_pairs, tokenise_pairs
from candling.access.tokenizer import read_tokenizer
from candling.errors import InputError

GOOD = {"clean": "a cat", "corrupt": "e cat", "answer": " a", "wrong": " c"}
WINDOW = 40


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs") / "p.jsonl"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return read_tokenizer(byte_level(), size=VOCABULARY, bos=END, eos=END)


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_pairs(path)
    return check_line(raised.value)


def refused(tokenizer: Tokenizer, *pairs: PromptPair) -> str:
    with pytest.raises(InputError) as raised:
        tokenise_pairs(pairs, tokenizer, window=WINDOW)
    return check_line(raised.value)


PROSE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@given(st.lists(st.tuples(PROSE, PROSE, PROSE, PROSE), min_size=1, max_size=4))
def test_what_is_written_is_read(file: Path, rows: list[tuple[str, str, str, str]]) -> None:
    file.write_bytes(lines(*(dict(zip(GOOD, row, strict=True)) for row in rows)))
    assert read_pairs(file) == [PromptPair(*row, line=at) for at, row in enumerate(rows, 1)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{}", "must be"),
        (b'{"text": "a"}', "must be"),
        (lines({**GOOD, "more": "x"}), "must be"),
        (lines({**GOOD, "clean": ""}), "clean is empty"),
        (lines({**GOOD, "wrong": 3}), "wrong is 3"),
        (lines({**GOOD, "answer": "a\0"}), "answer holds NUL"),
        (lines({**GOOD, "corrupt": "\ud800"}), "half a character"),
        (b'{"clean": "\xff"}', "UTF-8"),
        (b"[1", "not JSON"),
        (b'{"clean": "a", "clean": "b"}', "twice"),
    ],
)
def test_a_bad_line_is_named(file: Path, line: bytes, says: str) -> None:
    message = refusal(file, lines(GOOD) + line)
    assert "line 2" in message
    assert says in message


def test_an_empty_file_is_refused(file: Path) -> None:
    assert "empty" in refusal(file, b"")


def test_rows_are_bos_and_prompt_and_answers_are_first_tokens(tokenizer: Tokenizer) -> None:
    pairs = [PromptPair(**GOOD), PromptPair("xyz the", "xyw the", " cat", " ap")]
    done = tokenise_pairs(pairs, tokenizer, window=WINDOW)
    for row, pair in enumerate(pairs):
        ids = [END, *tokenizer.encode(pair.clean)]
        assert done.pairs.clean[row, : len(ids)].tolist() == ids
        assert not done.pairs.clean[row, len(ids) :].any()
        assert done.pairs.last[row] == len(ids) - 1
        assert done.pairs.answer[row] == tokenizer.encode(pair.answer)[0]
        assert done.pairs.wrong[row] == tokenizer.encode(pair.wrong)[0]
    assert done.pairs.first == 1
    assert done.notes == ()


def test_unequal_same_and_repeated_pairs_are_left_out_and_named(tokenizer: Tokenizer) -> None:
    good = PromptPair(**GOOD, line=1)
    longer = PromptPair("a cat", "a cats", " a", " c", line=2)
    alike = PromptPair("a cat", "a cat", " a", " c", line=3)
    done = tokenise_pairs([good, longer, alike, PromptPair(**GOOD, line=4)], tokenizer, window=WINDOW)
    assert len(done.pairs) == 1
    assert done.used == (0,)
    assert [word in note for word, note in zip(("line 2", "line 3", "line 4"), done.notes, strict=True)] == [True] * 3
    assert "line 2" in refused(tokenizer, longer)
    assert "none of 2" in refused(tokenizer, longer, alike)


def test_what_cannot_be_told_apart_or_does_not_fit_is_refused(tokenizer: Tokenizer) -> None:
    other = {key: GOOD[key] for key in ("clean", "corrupt")}
    assert "same token" in refused(tokenizer, PromptPair(**other, answer=" cat", wrong=" cats", line=7))
    assert "line 7" in refused(tokenizer, PromptPair(**other, answer=" cat", wrong=" cats", line=7))
    assert "melts" in refused(tokenizer, PromptPair("see the ", "sea the ", "cat", "dog", line=7))
    assert "takes 40" in refused(tokenizer, PromptPair("x" * 40, "y" * 40, "a", "b", line=9))


def test_the_digest_is_of_the_content(tokenizer: Tokenizer) -> None:
    one, other = PromptPair(**GOOD, line=1), PromptPair("o cat", "e cat", " a", " c", line=2)
    digests = [tokenise_pairs(p, tokenizer, window=WINDOW).sha256 for p in ([one], [other], [one, other])]
    assert len(set(digests)) == 3
    assert tokenise_pairs([PromptPair(**GOOD, line=5)], tokenizer, window=WINDOW).sha256 == digests[0]


def drawn(count: int, seed: int) -> Pairs:
    g = torch.Generator().manual_seed(seed)
    clean, corrupt = torch.randint(50, (2, count, 6), generator=g)
    return Pairs(clean, corrupt, *torch.randint(50, (2, count), generator=g), torch.full((count,), 5))


@given(st.integers(2, 30), st.integers(0, 1000))
def test_halves_are_disjoint_whole_balanced_and_keep_mirror_images_together(count: int, seed: int) -> None:
    own = drawn(count, seed)
    both = Pairs(*(torch.cat(each) for each in zip(vars(own).values(), mirrored(own), strict=True)))
    parts = halves(both, salt="s")
    sets = [{frozenset((tuple(c), tuple(k))) for c, k in zip(*rows(part), strict=True)} for part in parts]
    assert not sets[0] & sets[1]
    assert sum(map(len, parts)) == 2 * count
    assert 0 <= len(parts[0]) - len(parts[1]) <= 2
    shuffled = both.take(torch.randperm(2 * count, generator=torch.Generator().manual_seed(1)))
    again = halves(shuffled, salt="s")
    assert {frozenset((tuple(c), tuple(k))) for c, k in zip(*rows(again[0]), strict=True)} == sets[0]


def mirrored(pairs: Pairs) -> tuple[torch.Tensor, ...]:
    return pairs.corrupt, pairs.clean, pairs.wrong, pairs.answer, pairs.last


def rows(pairs: Pairs) -> tuple[list[list[int]], list[list[int]]]:
    return pairs.clean.tolist(), pairs.corrupt.tolist()


def test_one_pair_has_no_halves() -> None:
    with pytest.raises(InputError, match="too few"):
        halves(drawn(1, 0), salt="s")
