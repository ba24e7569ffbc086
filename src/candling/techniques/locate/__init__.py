"""Which parts matter? → Scores

Decoders, taken apart: `patch`, `patch_paths` and `acdc` measure, `attribution_patching` and `edge_attribution`
estimate, `direct_effects` and `composition` decompose; `check` compares an estimate with measurement, and `circuit`
uses both. Any network: `patch_nodes`, `attribute_nodes`, ablation of units and of directions, attribution of the
input, visualisation. `random_scores` is the null for all.
"""

from candling.techniques.locate.ablation import AblationScores, rank_units
from candling.techniques.locate.acdc import acdc
from candling.techniques.locate.attribution_patching import attribution_patching, attribution_patching_star
from candling.techniques.locate.check import Check, check
from candling.techniques.locate.circuit import FoundCircuit, circuit
from candling.techniques.locate.circuit_type import Circuit
from candling.techniques.locate.contract import Axis, LogitDifference, Metric, Scores
from candling.techniques.locate.contrast import Contrast, contrasts
from candling.techniques.locate.decomposition import composition, direct_effects, direct_logits
from candling.techniques.locate.directional_ablation import Direction, last_states, mean_differences
from candling.techniques.locate.edge_attribution import edge_attribution, edge_attribution_ig
from candling.techniques.locate.logit_lens import logit_lens
from candling.techniques.locate.node_patching import attribute_nodes, patch_nodes
from candling.techniques.locate.patching import patch
from candling.techniques.locate.path_patching import patch_paths
from candling.techniques.locate.random_scores import random_scores
from candling.techniques.locate.sanity import check_sanity
from candling.techniques.locate.visualisation import forced_choice, visualise

__all__ = [
    "AblationScores",
    "Axis",
    "Check",
    "Circuit",
    "Contrast",
    "Direction",
    "FoundCircuit",
    "LogitDifference",
    "Metric",
    "Scores",
    "acdc",
    "attribute_nodes",
    "attribution_patching",
    "attribution_patching_star",
    "check",
    "check_sanity",
    "circuit",
    "composition",
    "contrasts",
    "direct_effects",
    "direct_logits",
    "edge_attribution",
    "edge_attribution_ig",
    "forced_choice",
    "last_states",
    "logit_lens",
    "mean_differences",
    "patch",
    "patch_nodes",
    "patch_paths",
    "random_scores",
    "rank_units",
    "visualise",
]
