"""The only code that touches a network: load it, load its data, name its sites, observe and intervene."""

from candling.access.architecture import Architecture
from candling.access.bands import Bands, banded
from candling.access.checkpoint import fill, read_weights, sha256_file, sha256_state, write_weights
from candling.access.convert import convert
from candling.access.data import Dataset, from_arrays, read_npz, split
from candling.access.families import FAMILIES, Family, family_of
from candling.access.intervene import intervene
from candling.access.layout import Layout, read_layout
from candling.access.metric import Metric
from candling.access.model import Model, forward, load
from candling.access.observe import Observation, observe
from candling.access.outputs import check_fits
from candling.access.own import load_decoder
from candling.access.pretrained import Blueprint, Decoder, LanguageModel, load_language
from candling.access.sites import canonical_sites, sites
from candling.access.task import Task
from candling.access.texts import Text, Tokens, check_disjoint, read_texts, split_texts, tokenise
from candling.access.tokenizer import Tokenizer
from candling.access.untrusted import check_inputs, check_legitimate, read_inputs, read_legitimate

__all__ = [
    "FAMILIES",
    "Architecture",
    "Bands",
    "Blueprint",
    "Dataset",
    "Decoder",
    "Family",
    "LanguageModel",
    "Layout",
    "Metric",
    "Model",
    "Observation",
    "Task",
    "Text",
    "Tokenizer",
    "Tokens",
    "banded",
    "canonical_sites",
    "check_disjoint",
    "check_fits",
    "check_inputs",
    "check_legitimate",
    "convert",
    "family_of",
    "fill",
    "forward",
    "from_arrays",
    "intervene",
    "load",
    "load_decoder",
    "load_language",
    "observe",
    "read_inputs",
    "read_layout",
    "read_legitimate",
    "read_npz",
    "read_texts",
    "read_weights",
    "sha256_file",
    "sha256_state",
    "sites",
    "split",
    "split_texts",
    "tokenise",
    "write_weights",
]
