"""Conversations for an audit or an explanation: whose template renders them, and what the record says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from candling.access import Tokenizer, load_language
from candling.access.chat import ChatTemplate, read_chat_template, read_chats, render_chats, render_prompts
from candling.access.pairs import PromptPair
from candling.access.wording import shown
from candling.errors import InputError
from candling.workflows.case import Case, make_case


def chat_case(model: str, trusted: str, reference: str, dtype: str, untrusted: str | None) -> Case:
    """As `make_case`, with texts that are conversations. Raises as `chat_template` and `render_chats` too."""
    template, note = chat_template(model, reference)
    said = [read_chats(path) if path else [] for path in (trusted, untrusted)]
    base = load_language(reference, dtype=dtype)
    texts, others = (
        render_chats(chats, template, base.tokenizer, where=f"{shown(path, 60)}, line") if path else []
        for chats, path in zip(said, (trusted, untrusted), strict=True)
    )
    case = make_case(load_language(model, reference=base, dtype=dtype), texts, base, others)
    return replace(case, notes=(*case.notes, note), chat=template.sha256)


def chat_template(model: str, reference: str | None = None) -> tuple[ChatTemplate, str]:
    """The subject's chat template, or its reference's where it has none; and a note on which it is.

    Raises InputError where neither has one.
    """
    own = read_chat_template(model)
    theirs = read_chat_template(reference) if reference is not None else None
    template = own or theirs
    if template is None:
        where = f"{shown(model, 40)} and {shown(reference, 40)} have" if reference else f"{shown(model, 60)} has"
        raise InputError("chat", f"{where} no chat template: leave --chat out, or put a chat_template.jinja there")
    whose = "subject" if own else "reference"
    note = f"texts are conversations, rendered by the chat template in the {whose}'s {template.file}"
    if own and theirs and own.sha256 != theirs.sha256:
        note += "; the reference has another"
    return template, note


def chat_pairs(pairs: Sequence[PromptPair], model: str, tokenizer: Tokenizer) -> tuple[list[PromptPair], str, str]:
    """An explanation's pairs, each prompt a user's question; a note on the template, and its SHA-256.

    Raises as `chat_template` and `render_prompts`.
    """
    template, note = chat_template(model)
    clean, corrupt = (
        render_prompts(prompts, template, tokenizer, where="line")
        for prompts in ([pair.clean for pair in pairs], [pair.corrupt for pair in pairs])
    )
    both = zip(pairs, clean, corrupt, strict=True)
    said = [replace(pair, clean=one, corrupt=other) for pair, one, other in both]
    return said, note, template.sha256
