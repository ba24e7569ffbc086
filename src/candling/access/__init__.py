"""The only code that touches a network: load it, load its data, name its sites, observe and intervene."""

from candling.access.architecture import Architecture
from candling.access.checkpoint import fill, read_weights, sha256_file, sha256_state, write_weights
from candling.access.data import Dataset, check_fits, from_arrays, read_npz, split
from candling.access.intervene import intervene
from candling.access.model import Model, forward, load
from candling.access.observe import Observation, observe
from candling.access.sites import sites

__all__ = [
    "Architecture",
    "Dataset",
    "Model",
    "Observation",
    "check_fits",
    "fill",
    "forward",
    "from_arrays",
    "intervene",
    "load",
    "observe",
    "read_npz",
    "read_weights",
    "sha256_file",
    "sha256_state",
    "sites",
    "split",
    "write_weights",
]
