"""What can be hidden in a network, by dose."""

from candling.organisms.plants.backdoors import Backdoor, draw_backdoor

__all__ = ["Backdoor", "draw_backdoor"]
