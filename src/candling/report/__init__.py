"""Evidence in; an HTML page and sentences for the terminal out."""

from candling.report.page import draw, seal
from candling.report.text import terminal_safe
from candling.report.words import headline

__all__ = ["draw", "headline", "seal", "terminal_safe"]
