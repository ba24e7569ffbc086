"""Which parts matter?"""

from candling.techniques.locate.ablation import AblationScores, rank_units

__all__ = ["AblationScores", "rank_units"]
