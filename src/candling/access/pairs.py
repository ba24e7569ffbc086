"""Prompts in pairs: a clean one, a corrupt one that differs in what matters, and two answers to tell apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from candling.access.texts import read_lines
from candling.access.tokenizer import Tokenizer
from candling.access.wording import bad_input, listed, shown

_KEYS = {"clean", "corrupt", "answer", "wrong"}
_FORM = '{"clean": ..., "corrupt": ..., "answer": ..., "wrong": ...}'


@dataclass(frozen=True, eq=False)
class Pairs:
    """n pairs of equally many tokens each. Shorter ones are padded on the right: attention is causal."""

    clean: Tensor
    """int64 [n, L]"""
    corrupt: Tensor
    """int64 [n, L]"""
    answer: Tensor
    """int64 [n], the token that follows the clean prompt"""
    wrong: Tensor
    """int64 [n], the token that follows the corrupt one"""
    last: Tensor
    """int64 [n], where each prompt ends: the position whose logits count"""

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def length(self) -> int:
        return int(self.clean.shape[1])

    @property
    def first(self) -> int:
        """The first position at which any pair differs: nothing to the left of it can matter. 0 if none differs."""
        differing = torch.nonzero((self.clean != self.corrupt).any(0))
        return int(differing[0]) if len(differing) else 0

    def take(self, rows: Tensor | slice) -> Pairs:
        return Pairs(*(each[rows] for each in (self.clean, self.corrupt, self.answer, self.wrong, self.last)))

    def to(self, device: torch.device | str) -> Pairs:
        return Pairs(*(each.to(device) for each in (self.clean, self.corrupt, self.answer, self.wrong, self.last)))


@dataclass(frozen=True)
class PromptPair:
    """A pair as it was written."""

    clean: str
    corrupt: str
    answer: str
    """What follows the clean prompt; its first token counts."""
    wrong: str
    """What follows the corrupt one."""
    line: int = 0
    """Where it stood, from 1."""


@dataclass(frozen=True, eq=False)
class Tokenised:
    """Prompts as pairs of rows, and what was left out on the way."""

    pairs: Pairs
    used: tuple[int, ...]
    """Of each row the place of its prompts among those that were given."""
    notes: tuple[str, ...]
    """One line for each kind of pair that was left out."""
    sha256: str
    """Of the rows: all that decides a result."""


def read_pairs(path: str | Path) -> list[PromptPair]:
    """The pairs of a JSONL file: a line is `{"clean": …, "corrupt": …, "answer": …, "wrong": …}`.

    Raises InputError, naming the line, as `read_texts` does.
    """
    pairs = [PromptPair(**own, line=number) for number, own in read_lines(path, "pairs", (_KEYS,), _FORM)]
    if not pairs:
        raise bad_input("pairs", f"{shown(path, 60)} is empty; give a line {_FORM} for each pair")
    return pairs


def tokenise_pairs(prompts: Sequence[PromptPair], tokenizer: Tokenizer, *, window: int) -> Tokenised:
    """Rows of token ids: the tokenizer's bos if it has one, then the prompt.

    Left out, with a note that names the lines: pairs whose prompts differ in length (no position of one
    stands for one of the other), are the same, or repeat a pair. Raises InputError, naming the line, for a
    prompt without a token or longer than `window` tokens, a token id out of range, an answer that melts into
    the end of its prompt, answers that start with the same token, and where no pair is left.
    """
    kept: dict[tuple[int, ...], tuple[int, tuple[list[int], list[int]], tuple[int, int]]] = {}
    left: dict[str, list[str]] = {}
    for place, prompt in enumerate(prompts):
        where = f"line {prompt.line or place + 1:,}"
        clean, corrupt = (_row(text, tokenizer, window, where) for text in (prompt.clean, prompt.corrupt))
        answers = _answers(prompt, tokenizer, where)
        key = (*clean, -1, *corrupt, -1, *answers)
        if len(clean) != len(corrupt):
            left.setdefault("clean and corrupt differ in length", []).append(
                f"{where} ({len(clean)} and {len(corrupt)} tokens)"
            )
        elif clean == corrupt:
            left.setdefault("clean and corrupt are the same tokens", []).append(where)
        elif key in kept:
            left.setdefault("repeats another pair", []).append(where)
        else:
            kept[key] = (place, (clean, corrupt), answers)
    notes = [f"pairs: {len(lines)} left out, {why}: {listed(lines)}" for why, lines in left.items()]
    if not kept:
        what = "; ".join(note.removeprefix("pairs: ") for note in notes)
        raise bad_input("pairs", f"none of {len(prompts):,} is left: {what}")
    rows = list(kept.values())
    pairs = Pairs(
        _padded([own[0] for _, own, _ in rows]),
        _padded([own[1] for _, own, _ in rows]),
        torch.tensor([answers[0] for _, _, answers in rows]),
        torch.tensor([answers[1] for _, _, answers in rows]),
        torch.tensor([len(own[0]) - 1 for _, own, _ in rows]),
    )
    sha256 = hashlib.sha256(repr(list(kept)).encode()).hexdigest()
    return Tokenised(pairs, tuple(place for place, _, _ in rows), tuple(notes), sha256)


def halves(pairs: Pairs, *, salt: str) -> tuple[Pairs, Pairs]:
    """The pairs in two: one to find something on, one to test it. By hash, so their order does not matter.

    A pair and its mirror image (clean and corrupt exchanged) come into the same half. Raises InputError where
    fewer than two different pairs are given.
    """
    groups: dict[bytes, list[int]] = {}
    for row in range(len(pairs)):
        end = int(pairs.last[row]) + 1
        both = sorted(tuple(prompts[row, :end].tolist()) for prompts in (pairs.clean, pairs.corrupt))
        groups.setdefault(hashlib.sha256(f"{salt} {both}".encode()).digest(), []).append(row)
    if len(groups) < 2:
        raise bad_input("pairs", f"{len(pairs)} different pairs are too few: one half finds, the other tests; give 2")
    ordered = [groups[key] for key in sorted(groups)]
    middle = (len(ordered) + 1) // 2
    own, other = ([row for rows in part for row in rows] for part in (ordered[:middle], ordered[middle:]))
    return pairs.take(torch.tensor(sorted(own))), pairs.take(torch.tensor(sorted(other)))


def _row(text: str, tokenizer: Tokenizer, window: int, where: str) -> list[int]:
    own = tokenizer.encode(text)
    row = own if tokenizer.bos is None else [tokenizer.bos, *own]
    odd = [token for token in own if token >= tokenizer.size]
    if odd:
        raise bad_input("pairs", f"{where}: token id {odd[0]:,} is out of range; the model has {tokenizer.size:,}")
    if not own:
        raise bad_input("pairs", f"{where}: {shown(text)} gives no token; give a longer prompt")
    if len(row) > window:
        raise bad_input("pairs", f"{where}: a prompt has {len(row):,} tokens; the model takes {window:,}")
    return row


def _answers(prompt: PromptPair, tokenizer: Tokenizer, where: str) -> tuple[int, int]:
    """The first token of each answer, as it follows the clean prompt."""
    before = tokenizer.encode(prompt.clean)
    found = []
    for name, text in (("answer", prompt.answer), ("wrong", prompt.wrong)):
        whole = tokenizer.encode(prompt.clean + text)
        if len(whole) <= len(before) or whole[: len(before)] != before:
            what = f"{name} {shown(text, 24)} melts into the end of the prompt"
            raise bad_input("pairs", f"{where}: {what}; move a space from the prompt's end to the answer's start")
        if whole[len(before)] >= tokenizer.size:
            raise bad_input("pairs", f"{where}: token id {whole[len(before)]:,} of {name} is out of range")
        found.append(whole[len(before)])
    if found[0] == found[1]:
        both = f"answer {shown(prompt.answer, 24)} and wrong {shown(prompt.wrong, 24)}"
        piece = shown(tokenizer.piece(found[0]), 24)
        raise bad_input("pairs", f"{where}: {both} start with the same token ({piece}); give answers that do not")
    return found[0], found[1]


def _padded(rows: list[list[int]]) -> Tensor:
    whole = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for place, row in enumerate(rows):
        whole[place, : len(row)] = torch.tensor(row)
    return whole
