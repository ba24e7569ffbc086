"""Which input would cause it? → Found"""

from candling.techniques.search.contract import Found, FoundTrigger, Part, Search
from candling.techniques.search.inversion import invert, refine
from candling.techniques.search.random_triggers import random_triggers

SEARCHES: dict[str, Search] = {"inversion": invert, "random triggers": random_triggers}

__all__ = ["SEARCHES", "Found", "FoundTrigger", "Part", "Search", "invert", "random_triggers", "refine"]
