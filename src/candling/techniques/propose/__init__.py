"""Which program is it? → Programs"""

from candling.techniques.propose.contract import Programs, Proposal, Propose, Seen
from candling.techniques.propose.images import propose_images
from candling.techniques.propose.pairs import propose_pairs
from candling.techniques.propose.sequences import propose_sequences

GRAMMARS: dict[str, Propose] = {"images": propose_images, "pairs": propose_pairs, "sequences": propose_sequences}
"""By the kind of input."""

__all__ = [
    "GRAMMARS",
    "Programs",
    "Proposal",
    "Propose",
    "Seen",
    "propose_images",
    "propose_pairs",
    "propose_sequences",
]
