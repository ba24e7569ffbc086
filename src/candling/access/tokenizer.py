"""Text to token ids and back, by the `tokenizer.json` of a model; nothing in it is ever run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from candling.access.folder import parse_json
from candling.access.wording import bad_input, shown
from candling.errors import CandlingError

if TYPE_CHECKING:
    import tokenizers

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Tokenizer:
    """Built from JSON text when first used; pickles as that text."""

    json: str
    """What `tokenizer.json` holds."""
    size: int
    """How many token ids the model knows: rows of its embedding, width of its logits."""
    bos: int | None = None
    eos: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"json": self.json, "size": self.size, "bos": self.bos, "eos": self.eos}

    def __repr__(self) -> str:
        return f"Tokenizer(size={self.size}, bos={self.bos}, eos={self.eos})"

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens around it. Raises InputError where the tokenizer fails."""
        with _blaming("fails on a text"):
            return list(self._built.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Raises InputError as `encode`."""
        with _blaming("fails on token ids"):
            return str(self._built.decode(list(ids), skip_special_tokens=False))

    def piece(self, token: int) -> str:
        """One token's own text with its leading space; a byte that is no character alone as `\\xe2`.

        An id without a token (a padded row of the embedding) gives `<id>`.
        """
        text = self._built.id_to_token(token)
        if text is None:
            return f"<{token}>"
        if token in self._added:
            return str(text)
        byte = _BYTE.fullmatch(text)
        if byte:
            return bytes([int(byte[1], 16)]).decode("utf-8", "backslashreplace")
        if self._bytewise:
            return _from_bytes(text)
        return str(text).replace("\u2581", " ")

    @cached_property
    def _built(self) -> tokenizers.Tokenizer:
        return build(self.json)

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self._built.get_added_tokens_decoder())

    @cached_property
    def _bytewise(self) -> bool:
        fields = parse_json(self.json)
        return any(_names(fields.get(part), "ByteLevel") for part in ("decoder", "pre_tokenizer"))


def read_tokenizer(text: str, *, size: int, bos: int | None, eos: int | None) -> Tokenizer:
    """A tokenizer for a model with `size` token ids.

    Raises InputError where the text is no tokenizer, fails on a few words, or does not fit the model.
    """
    tokenizer = Tokenizer(text, size, bos, eos)
    vocabulary = tokenizer._built.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise bad_input("tokenizer", "tokenizer.json holds no token")
    piece, top = max(vocabulary.items(), key=lambda item: item[1])
    if top >= size:
        raise bad_input("tokenizer", f"token {shown(piece)} has id {top:,}, but the embedding has {size:,} rows")
    tokenizer.decode(tokenizer.encode("A few words, é.\n"))
    return tokenizer


def build(text: str) -> tokenizers.Tokenizer:
    """The working tokenizer, without truncation or padding. Raises InputError."""
    from tokenizers import Tokenizer as Built

    with _blaming("is no tokenizer"):
        built = Built.from_str(text)
        built.no_truncation()
        built.no_padding()
    return built


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turns whatever the library raises into an InputError."""
    try:
        yield
    except (CandlingError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as fault:  # a panic in the library is no Exception
        raise bad_input("tokenizer", f"tokenizer.json {what}: {shown(fault, 80)}") from None


def _names(part: Any, kind: str) -> bool:
    """Whether a part of the tokenizer, or one of its members, is of this kind."""
    if not isinstance(part, dict):
        return False
    members = [*(part.get("pretokenizers") or []), *(part.get("decoders") or [])]
    return part.get("type") == kind or any(_names(member, kind) for member in members)


def _from_bytes(piece: str) -> str:
    """A byte-level token's text: each character stands for one byte."""
    table = _byte_characters()
    if not all(character in table for character in piece):
        return piece
    return bytes(table[character] for character in piece).decode("utf-8", "backslashreplace")


def _byte_characters() -> dict[str, int]:
    """Byte-level vocabularies spell printable bytes as themselves and the others from U+0100 on, in order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}
