"""The pronoun of a real language model (stories260K) explained: which few edges say *she* after Lily, *he* after Tim?

    python benchmarks/pronouns.py [RUN]

Sixteen sentences in both directions: the name is all that differs. Prints what `candling explain` prints; the record
and its page lie in RUN (`pronouns` unless given), where `candling replay` runs the claim again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from candling.cli import main
from common import real

SENTENCES = (
    "One day, {} went to the park because",
    "Once upon a time, {} was sad because",
    "{} was very happy because",
    "{} saw a big dog and",
    "{} wanted to play outside, but",
    "One day, {} found a red ball and",
    "{} went to the store and",
    "{} liked to play with the toys, and",
    "One day, {} was in the garden when",
    "{} was tired, so",
    "{} ran to the house because",
    "{} had a big cake and",
    "One sunny day, {} went outside and",
    "{} looked at the sky and",
    "{} heard a loud noise and",
    "{} was hungry, so",
)
NAMES = (("Lily", "Tim", " she", " he"), ("Tim", "Lily", " he", " she"))


def write_pairs(path: Path) -> None:
    """A line a pair."""
    lines = [
        {"clean": text.format(own), "corrupt": text.format(other), "answer": answer, "wrong": wrong}
        for text in SENTENCES
        for own, other, answer, wrong in NAMES
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "pronouns")
    model, pairs = real() / "stories260K", folder.with_suffix(".jsonl")
    write_pairs(pairs)
    sys.argv = ["candling", "explain", str(model.resolve()), "--pairs", str(pairs.resolve()), "--out", str(folder)]
    main()
