"""What can be hidden in a network, by dose."""

from candling.organisms.plants.backdoors import Backdoor, draw_backdoor
from candling.organisms.plants.sequences import SequenceBackdoor, draw_sequence_backdoor

__all__ = ["Backdoor", "SequenceBackdoor", "draw_backdoor", "draw_sequence_backdoor"]
