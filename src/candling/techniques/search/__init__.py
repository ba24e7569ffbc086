"""Which input would cause it? → Found"""

from candling.techniques.search.acts import Act, ActPart, FoundActs, act_parts, random_acts, search_acts
from candling.techniques.search.broad_change import BroadChange, random_change_like
from candling.techniques.search.changes import change_parts, random_changes, search_changes
from candling.techniques.search.concealed import context_parts, random_contexts, search_contexts
from candling.techniques.search.contexts import Context, ContextPart, FoundContexts, random_context_like
from candling.techniques.search.contract import (
    ChangePart,
    CuePart,
    CueSet,
    Found,
    FoundChanges,
    FoundCues,
    FoundSequence,
    FoundSequences,
    FoundTrigger,
    Part,
    Search,
    SequencePart,
)
from candling.techniques.search.cues import cue_parts, random_cues, random_cues_like, search_cues
from candling.techniques.search.inversion import invert, refine
from candling.techniques.search.random_sequences import random_sequences
from candling.techniques.search.random_triggers import random_like, random_triggers
from candling.techniques.search.sequences import search_sequences

SEARCHES: dict[str, Search] = {"inversion": invert, "random triggers": random_triggers}

__all__ = [
    "SEARCHES",
    "Act",
    "ActPart",
    "BroadChange",
    "ChangePart",
    "Context",
    "ContextPart",
    "CuePart",
    "CueSet",
    "Found",
    "FoundActs",
    "FoundChanges",
    "FoundContexts",
    "FoundCues",
    "FoundSequence",
    "FoundSequences",
    "FoundTrigger",
    "Part",
    "Search",
    "SequencePart",
    "act_parts",
    "change_parts",
    "context_parts",
    "cue_parts",
    "invert",
    "random_acts",
    "random_change_like",
    "random_changes",
    "random_context_like",
    "random_contexts",
    "random_cues",
    "random_cues_like",
    "random_like",
    "random_sequences",
    "random_triggers",
    "refine",
    "search_acts",
    "search_changes",
    "search_contexts",
    "search_cues",
    "search_sequences",
]
