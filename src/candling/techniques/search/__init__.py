"""Which input would cause it? → Found"""

from candling.techniques.search.contract import (
    Found,
    FoundSequence,
    FoundSequences,
    FoundTrigger,
    Part,
    Search,
    SequencePart,
)
from candling.techniques.search.inversion import invert, refine
from candling.techniques.search.random_triggers import random_like, random_triggers
from candling.techniques.search.sequences import random_sequences, search_sequences

SEARCHES: dict[str, Search] = {"inversion": invert, "random triggers": random_triggers}

__all__ = [
    "SEARCHES",
    "Found",
    "FoundSequence",
    "FoundSequences",
    "FoundTrigger",
    "Part",
    "Search",
    "SequencePart",
    "invert",
    "random_like",
    "random_sequences",
    "random_triggers",
    "refine",
    "search_sequences",
]
