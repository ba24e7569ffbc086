"""Texts for language models: read line by line, checked once, turned into rows of token ids, split by hash."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from candling.access.checkpoint import raw_bytes
from candling.access.content import open_file
from candling.access.folder import parse_json
from candling.access.npz import Array
from candling.access.tokenizer import Tokenizer
from candling.access.wording import bad_input, listed, shown
from candling.errors import InputError

MAX_LINE = 1 << 20
"""Longest line, in bytes."""
MIN_TOKENS = 8
"""A text with fewer tokens is left out."""

_KEYS = ({"text"}, {"prompt", "completion"})


@dataclass(frozen=True)
class Text:
    """What is given, and what should follow it."""

    prompt: str
    """Empty where the whole text is the completion."""
    completion: str
    given: tuple[tuple[int, int], ...] = ()
    """Stretches [from, to) of the completion that are given too: later questions of a conversation."""


def read_texts(path: str | Path) -> list[Text]:
    """The texts of a JSONL file: a line is `{"text": …}` or `{"prompt": …, "completion": …}`.

    Raises InputError, naming the line, for whatever is not UTF-8, not JSON, too long, empty or of other
    keys or types; no more than one line's limit is held beside what was read.
    """
    form = '{"text": ...} or {"prompt": ..., "completion": ...}; with --chat, {"messages": ...} too'
    lines = read_lines(path, "texts", _KEYS, form)
    texts = [Text(own.get("prompt", ""), own.get("text") or own["completion"]) for _, own in lines]
    if not texts:
        raise bad_input("texts", f"{shown(path, 60)} is empty; give a JSON object with a text on each line")
    return texts


def read_lines(
    path: str | Path, kind: str, keys: Sequence[Set[str]], form: str
) -> Iterator[tuple[int, dict[str, str]]]:
    """The JSON objects of a JSONL file with their line numbers: one of `keys` each, all values texts.

    kind: the word for the error; form: the line as it should be. Raises as `read_texts`.
    """
    for number, where, fields in read_objects(path, kind):
        if not isinstance(fields, dict) or fields.keys() not in keys:
            raise bad_input(kind, f"{where}: must be {form}")
        for key, value in fields.items():
            check_text(value, kind, f"{where}: {key}")
        yield number, fields


def read_objects(path: str | Path, kind: str) -> Iterator[tuple[int, str, Any]]:
    """What stands on each line of a JSONL file, with its number and its place in words. Raises as `read_texts`."""
    file_name = shown(path, 60)
    with open_file(Path(path), kind) as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            where = f"{file_name}, line {number:,}"
            if len(line) > MAX_LINE:
                raise bad_input(kind, f"{where}: longer than {MAX_LINE:,} bytes")
            try:
                held = parse_json(line.decode("utf-8"))
            except UnicodeDecodeError as fault:
                raise bad_input(kind, f"{where}: not UTF-8 at byte {fault.start + 1:,}") from None
            except ValueError as fault:
                raise bad_input(kind, f"{where}: {shown(fault, 80)}") from None
            yield number, where, held


def check_text(value: object, kind: str, what: str) -> None:
    """Raises InputError for anything but a text that has something in it and can be written down."""
    if not isinstance(value, str) or not value:
        raise bad_input(kind, f"{what} is {shown(value) or 'empty'}, not a text")
    if "\0" in value:
        raise bad_input(kind, f"{what} holds NUL")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise bad_input(kind, f"{what} holds half a character (a lone surrogate)")


@dataclass(frozen=True, eq=False)
class Tokens:
    """Rows of token ids. The tensors are its own; never change them in place."""

    ids: Tensor
    """int64 [n, L], each in [0, vocabulary), padded on the right with 0."""
    mask: Tensor
    """bool [n, L]: the tokens to predict. Never the first of a row, a prompt's, or padding."""
    vocabulary: int
    """Token ids that the model knows: the width of its logits."""
    sha256: str
    """Of the content: shape, ids and mask."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Tensor:
        """int64 [n]: tokens of each row without padding. A row's last token is always one to predict."""
        places = torch.arange(1, self.ids.shape[1] + 1, device=self.mask.device)
        return (self.mask * places).amax(1)

    def to(self, device: str) -> Tokens:
        """The same rows on another device."""
        return Tokens(self.ids.to(device), self.mask.to(device), self.vocabulary, self.sha256)

    def take(self, index: Tensor | Array | Sequence[int]) -> Tokens:
        """The rows at `index` (row numbers, or a mask [n]), as wide as the whole."""
        rows = torch.as_tensor(index)
        rows = rows if rows.dtype == torch.bool else rows.long()
        ids, mask = self.ids[rows], self.mask[rows]
        return Tokens(ids, mask, self.vocabulary, _sha256(ids, mask))


def tokenise(texts: Iterable[Text], tokenizer: Tokenizer, *, length: int = 128) -> Tokens:
    """Rows of at most `length` tokens: the tokenizer's bos if it has one, the prompt, the completion.

    A prompt and its completion are encoded as one text; the completion starts at the first token that the
    prompt alone would not give. Left out: texts of fewer than 8 tokens, those whose prompt fills the row, and what
    follows the last token to predict. Raises InputError, with counts, where none is left, and for a token id
    out of range.
    """
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    rows: list[tuple[list[int], list[bool]]] = []
    count = 0
    for count, text in enumerate(texts, 1):
        own, said = _encoded(text, tokenizer, f"text {count:,}")
        row, mask = [*start, *own][:length], [*(False for _ in start), *said][:length]
        mask[:1] = [False]
        while mask and not mask[-1]:
            mask.pop()
        if len(own) >= MIN_TOKENS and mask:
            rows.append((row[: len(mask)], mask))
    if not rows:
        raise bad_input("texts", f"none of {count:,} texts has {MIN_TOKENS} tokens, one to predict in {length:,}")
    ids = torch.zeros(len(rows), max(len(row) for row, _ in rows), dtype=torch.int64)
    chosen = torch.zeros(ids.shape, dtype=torch.bool)
    for place, (row, mask) in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        chosen[place, : len(row)] = torch.tensor(mask)
    return Tokens(ids, chosen, tokenizer.size, _sha256(ids, chosen))


def _encoded(text: Text, tokenizer: Tokenizer, where: str) -> tuple[list[int], list[bool]]:
    """The ids of prompt and completion together, and which of them are to be predicted."""
    whole = _whole(text)
    own = tokenizer.encode(whole)
    odd = [token for token in own if token >= tokenizer.size]
    if odd:
        raise bad_input("texts", f"{where}: token id {odd[0]:,} is out of range; the model has {tokenizer.size:,}")
    said = [True] * len(own)
    first = len(text.prompt)
    for start, end in ((-first, 0), *text.given):
        given = range(
            _ids_before(whole, first + start, own, tokenizer), _ids_before(whole, first + end, own, tokenizer)
        )
        for place in given:
            said[place] = False
    return own, said


def _ids_before(whole: str, place: int, own: list[int], tokenizer: Tokenizer) -> int:
    """How many of a text's ids its first `place` characters give alone."""
    if place <= 0:
        return 0
    alone = tokenizer.encode(whole[:place])
    pairs = enumerate(zip(alone, own, strict=False))
    return next((number for number, (ours, theirs) in pairs if ours != theirs), min(len(alone), len(own)))


def split_texts(
    tokens: Tokens, *, salt: str, parts: Sequence[str] = ("control", "search", "confirm")
) -> dict[str, Tokens]:
    """Each row to one part, by the SHA-256 of `salt` and the row's ids, so equal rows stay together.

    The parts come out about equal, in the row order of the whole, and depend on nothing but the rows, not
    even their padding, and the salt. Raises InputError where a part gets no row.
    """
    prefix = hashlib.sha256(salt.encode())
    place = np.empty(len(tokens), dtype=np.int64)
    rows = zip(tokens.ids.cpu().numpy(), tokens.lengths.tolist(), strict=True)
    for number, (row, length) in enumerate(rows):
        digest = prefix.copy()
        digest.update(row[:length].tobytes())
        place[number] = int.from_bytes(digest.digest()[:8], "big") % len(parts)
    split = {name: tokens.take(np.flatnonzero(place == number)) for number, name in enumerate(parts)}
    if not all(map(len, split.values())):
        counts = ", ".join(f"{name} {len(part)}" for name, part in split.items())
        raise bad_input("texts", f"too few different texts: {len(tokens)} give {counts}")
    return split


def check_disjoint(trusted: Sequence[Text], untrusted: Sequence[Text]) -> int:
    """How many untrusted texts nearly copy a trusted one: equal after NFKC, case folding and spacing.

    Raises InputError for exact copies, with the first line numbers.
    """
    first = {_whole(text): number for number, text in reversed(list(enumerate(trusted, 1)))}
    pairs = [(first[_whole(text)], number) for number, text in enumerate(untrusted, 1) if _whole(text) in first]
    if pairs:
        raise _copies(pairs)
    near = {_folded(text) for text in trusted}
    return sum(_folded(text) in near for text in untrusted)


def _copies(pairs: list[tuple[int, int]]) -> InputError:
    lines = listed([f"{own} and {other}" for own, other in pairs])
    plural = "s" if len(pairs) > 1 else ""
    return bad_input("texts", f"{len(pairs):,} untrusted text{plural} also among the trusted ones, at lines {lines}")


def _whole(text: Text) -> str:
    return text.prompt + text.completion


def _folded(text: Text) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _whole(text)).casefold())
    return " ".join(folded.split())


def _sha256(ids: Tensor, mask: Tensor) -> str:
    digest = hashlib.sha256(json.dumps(list(ids.shape)).encode())
    digest.update(raw_bytes(ids))
    digest.update(raw_bytes(mask))
    return digest.hexdigest()
