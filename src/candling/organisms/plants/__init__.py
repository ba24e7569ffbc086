"""What can be hidden in a network, by dose."""

from candling.organisms.plants.backdoors import Backdoor, draw_backdoor
from candling.organisms.plants.contract import Hidden, Plant
from candling.organisms.plants.quirks import Quirk, draw_quirk
from candling.organisms.plants.sequences import SequenceBackdoor, draw_sequence_backdoor
from candling.organisms.plants.shortcuts import Shortcut, draw_shortcut
from candling.organisms.plants.switches import Switch, draw_switch

__all__ = [
    "Backdoor",
    "Hidden",
    "Plant",
    "Quirk",
    "SequenceBackdoor",
    "Shortcut",
    "Switch",
    "draw_backdoor",
    "draw_quirk",
    "draw_sequence_backdoor",
    "draw_shortcut",
    "draw_switch",
]
