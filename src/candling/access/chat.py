"""Conversations as a chat model reads them: rendered by its own chat template, which is never trusted.

The template is rendered in a child process (`rendering`), in jinja2's sandbox and with limits on time, memory and
output. What the assistant says is what a text's tokens to predict are.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from candling.access import rendering
from candling.access.folder import Folder, located
from candling.access.texts import Text, check_text, read_objects
from candling.access.tokenizer import Tokenizer
from candling.access.wording import bad_input, shown, unsafe_input
from candling.errors import EnvironmentFault

FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
ROLES = ("system", "developer", "user", "assistant", "tool")
MEGABYTES = 512
"""Memory that rendering may take beside the conversations."""

_MESSAGE = '{"role": ..., "content": ...}'
_FORM = f'{{"prompt": ..., "completion": ...}} or {{"messages": [{_MESSAGE}, ...]}}'

Chat = tuple[Mapping[str, str], ...]
"""Messages, each with its `role` and `content`."""


@dataclass(frozen=True)
class ChatTemplate:
    """A folder's template, as text: nothing of it has been looked at."""

    source: str
    names: tuple[tuple[str, str], ...]
    """Special tokens that a template may name, such as `bos_token`."""
    file: str
    """Which file it was in."""

    @property
    def sha256(self) -> str:
        """Of all that decides what it renders."""
        return hashlib.sha256(json.dumps([self.source, self.names]).encode()).hexdigest()


def read_chat_template(path: str | Path) -> ChatTemplate | None:
    """The chat template of a model's folder; None if it has none. Raises as `load_language`."""
    folder = Folder(located(path))
    fields: dict[str, Any] = folder.json(CONFIG)[1] if folder.has(CONFIG) else {}
    names = tuple(sorted((key, own) for key, value in fields.items() if (own := _special(key, value))))
    if folder.has(FILE):
        return ChatTemplate(folder.text(FILE), names, FILE)
    held = fields.get("chat_template")
    if isinstance(held, list):  # several, each with a name
        held = next(
            (own.get("template") for own in held if isinstance(own, dict) and own.get("name") == "default"), ""
        )
    if held is None:
        return None
    if not isinstance(held, str) or not held:
        raise bad_input("chat", f"{folder}: {CONFIG}: chat_template is no text and no list with one named default")
    return ChatTemplate(held, names, CONFIG)


def _special(key: str, value: object) -> str | None:
    if not key.endswith("_token"):
        return None
    own = value.get("content") if isinstance(value, dict) else value
    return own if isinstance(own, str) else None


def read_chats(path: str | Path) -> list[Chat]:
    """The conversations of a JSONL file, one a line: a prompt with its completion, or messages.

    Raises InputError, naming the line, for whatever is malformed, of another role, or without an assistant's turn.
    """
    chats = [_chat(held, where) for _, where, held in read_objects(path, "texts")]
    if not chats:
        raise bad_input("texts", f"{shown(path, 60)} is empty; give a conversation on each line")
    return chats


def _chat(held: object, where: str) -> Chat:
    if isinstance(held, dict) and held.keys() == {"prompt", "completion"}:
        pairs = [("user", held["prompt"]), ("assistant", held["completion"])]
    elif isinstance(held, dict) and held.keys() == {"messages"} and isinstance(held["messages"], list):
        if not all(isinstance(each, dict) and each.keys() == {"role", "content"} for each in held["messages"]):
            raise bad_input("texts", f"{where}: each message must be {_MESSAGE}")
        pairs = [(each["role"], each["content"]) for each in held["messages"]]
    else:
        raise bad_input("texts", f"{where}: with --chat, must be {_FORM}")
    for number, (role, content) in enumerate(pairs, 1):
        if role not in ROLES:
            raise bad_input(
                "texts", f"{where}: message {number:,} has the role {shown(role)}, not {', '.join(ROLES)}"
            )
        check_text(content, "texts", f"{where}: message {number:,}")
    if not any(role == "assistant" for role, _ in pairs):
        raise bad_input("texts", f"{where}: the assistant says nothing; there is nothing to predict")
    return tuple({"role": role, "content": content} for role, content in pairs)


def render_chats(
    chats: Sequence[Chat],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    *,
    where: str = "conversation",
    seconds: int | None = None,
    megabytes: int = MEGABYTES,
) -> list[Text]:
    """Each conversation as the model reads it; what the assistant says is to be predicted, its end mark too.

    What follows the assistant's last word is left out. where: what a conversation is called in an error. Raises
    UnsafeInputError where the template reaches for what is forbidden or takes more than `seconds`, `megabytes` or
    a megabyte of text; InputError where it fails, or leaves out an assistant's words.
    """
    texts = []
    for number, (whole, spans) in enumerate(_rendered(chats, template, where, seconds, megabytes, answer=False), 1):
        check_text(whole, "chat", f"{where} {number:,}: what the chat template writes")
        skipped = _doubled(whole, template, tokenizer)
        start, end = spans[0][0], spans[-1][1]
        given = [(before[1] - start, after[0] - start) for before, after in pairwise(spans)]
        texts.append(Text(whole[skipped:start], whole[start:end], tuple(given)))
    return texts


def render_prompts(
    prompts: Sequence[str],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    *,
    where: str = "prompt",
    seconds: int | None = None,
    megabytes: int = MEGABYTES,
) -> list[str]:
    """Each as a user's question, with the start of an answer behind it. Raises as `render_chats`."""
    chats = [({"role": "user", "content": prompt},) for prompt in prompts]
    found = []
    for number, (whole, _) in enumerate(_rendered(chats, template, where, seconds, megabytes, answer=True), 1):
        check_text(whole, "chat", f"{where} {number:,}: what the chat template writes")
        found.append(whole[_doubled(whole, template, tokenizer) :])
    return found


def _doubled(whole: str, template: ChatTemplate, tokenizer: Tokenizer) -> int:
    """Characters at the start that spell the token which `tokenise` puts there anyway."""
    bos = dict(template.names).get("bos_token", "")
    own = tokenizer.bos is not None and tokenizer.piece(tokenizer.bos) == bos
    return len(bos) if bos and own and whole.startswith(bos) else 0


def _rendered(
    chats: Sequence[Chat], template: ChatTemplate, where: str, seconds: int | None, megabytes: int, *, answer: bool
) -> list[tuple[str, list[list[int]]]]:
    """The child's answer, or what it means that there is none."""
    seconds = 20 + len(chats) // 20 if seconds is None else seconds
    request = {
        "template": template.source,
        "names": dict(template.names),
        "chats": chats,
        "answer": answer,
        "seconds": seconds,
        "megabytes": megabytes + sum(len(message["content"]) for chat in chats for message in chat) // 25_000,
    }
    limits = f"{seconds} s or {megabytes} MB"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-B", rendering.__file__],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            timeout=2 * seconds + 30,  # the limit is on processor time
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise unsafe_input("chat", f"{template.file}: the chat template takes more than {limits}; refused") from None
    if done.returncode < 0:  # killed
        raise unsafe_input("chat", f"{template.file}: the chat template takes more than {limits}; refused")
    if done.returncode:
        raise EnvironmentFault("chat", f"the process that renders chat templates ended with {done.returncode}")
    said = json.loads(done.stdout)
    if "texts" in said:
        return [(whole, spans) for whole, spans in said["texts"]]
    place = f"{where} {said['number']:,}" if said["number"] else template.file
    why = shown(said["why"], 90)
    if said["fault"] == rendering.UNSAFE:
        raise unsafe_input("chat", f"{place}: the chat template {why}, which is forbidden; refused")
    if said["fault"] == rendering.LIMIT:
        raise unsafe_input("chat", f"{place}: the chat template {why}; refused")
    raise bad_input("chat", f"{place}: the chat template fails ({why})")
