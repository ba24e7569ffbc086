"""Hold a trained network up to the light: audit its inside, prove what is found, say what would be caught."""

from candling._version import VERSION as __version__
from candling.access import Dataset, Model, from_arrays, load, load_language, read_npz, read_texts
from candling.access.pairs import read_pairs
from candling.errors import CandlingError
from candling.workflows.audit import Audit, audit
from candling.workflows.examine import Bar
from candling.workflows.explain import explain
from candling.workflows.replay import replay
from candling.workflows.solve import solve_network as solve

__all__ = [
    "Audit",
    "Bar",
    "CandlingError",
    "Dataset",
    "Model",
    "__version__",
    "audit",
    "explain",
    "from_arrays",
    "load",
    "load_language",
    "read_npz",
    "read_pairs",
    "read_texts",
    "replay",
    "solve",
]
