"""Families of language models: where each keeps its parts, as a table. A new family is a new entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from candling.access.wording import bad_input, listed, shown

_SHARED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("hidden_act", "max_position_embeddings", "initializer_range", "attention_dropout", "attention_bias"),
    *("tie_word_embeddings", "pad_token_id", "rope_parameters", "rope_theta", "rope_scaling"),
)
_GROUPED = (*_SHARED, "num_key_value_heads", "head_dim", "rms_norm_eps")
_WINDOWED = (*_GROUPED, "use_sliding_window", "sliding_window", "max_window_layers", "layer_types")


@dataclass(frozen=True)
class Family:
    """One kind of decoder. Paths are module paths; those below a block are relative to the block."""

    name: str
    """`model_type` in config.json."""
    model_class: str
    """Its class with a language head in transformers."""
    config_class: str
    settings: tuple[str, ...]
    """The keys of config.json that decide what is computed; no other reaches transformers."""
    base: str
    """The decoder without its head; files of a bare decoder leave this prefix out."""
    blocks: str
    """The list of blocks; block i is `blocks.i`."""
    attention: str
    attention_output: str
    """The map from the heads' outputs to the residual stream."""
    mlp: str
    mlp_output: str
    """The map from the hidden units to the residual stream."""
    final_norm: str
    embedding: str
    unembedding: str
    depth: str = "num_hidden_layers"
    """The setting that gives the number of blocks."""
    window: str = "max_position_embeddings"
    """The setting that gives the most positions."""
    constants: tuple[str, ...] = ("rotary_emb.inv_freq",)
    """Endings of names that old files hold and that the settings decide already."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Starts of names as some files spell them, and as they are here."""


_LLAMA = Family(
    name="llama",
    model_class="LlamaForCausalLM",
    config_class="LlamaConfig",
    settings=(*_GROUPED, "mlp_bias"),
    base="model",
    blocks="model.layers",
    attention="self_attn",
    attention_output="self_attn.o_proj",
    mlp="mlp",
    mlp_output="mlp.down_proj",
    final_norm="model.norm",
    embedding="model.embed_tokens",
    unembedding="lm_head",
)


def _like_llama(name: str, stem: str, settings: tuple[str, ...]) -> Family:
    model_class, config_class = f"{stem}ForCausalLM", f"{stem}Config"
    return replace(_LLAMA, name=name, model_class=model_class, config_class=config_class, settings=settings)


FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="gpt2",
            model_class="GPT2LMHeadModel",
            config_class="GPT2Config",
            settings=(
                *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function"),
                *("resid_pdrop", "embd_pdrop", "attn_pdrop", "layer_norm_epsilon", "initializer_range"),
                *("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"),
                *("tie_word_embeddings", "pad_token_id"),
            ),
            base="transformer",
            blocks="transformer.h",
            attention="attn",
            attention_output="attn.c_proj",
            mlp="mlp",
            mlp_output="mlp.c_proj",
            final_norm="transformer.ln_f",
            embedding="transformer.wte",
            unembedding="lm_head",
            depth="n_layer",
            window="n_positions",
            constants=(".attn.bias", ".attn.masked_bias"),
        ),
        Family(
            name="gpt_neox",
            model_class="GPTNeoXForCausalLM",
            config_class="GPTNeoXConfig",
            settings=(
                *_SHARED,
                *("layer_norm_eps", "hidden_dropout", "classifier_dropout", "use_parallel_residual"),
                *("rotary_pct", "rotary_emb_base", "partial_rotary_factor"),
            ),
            base="gpt_neox",
            blocks="gpt_neox.layers",
            attention="attention",
            attention_output="attention.dense",
            mlp="mlp",
            mlp_output="mlp.dense_4h_to_h",
            final_norm="gpt_neox.final_layer_norm",
            embedding="gpt_neox.embed_in",
            unembedding="lm_head",
            constants=(".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"),
            renamed=(("embed_out.", "lm_head."),),
        ),
        _LLAMA,
        _like_llama("mistral", "Mistral", (*_GROUPED, "sliding_window")),
        _like_llama("qwen2", "Qwen2", _WINDOWED),
        _like_llama("qwen3", "Qwen3", _WINDOWED),
    )
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that `model_type` names. Raises InputError, naming those known."""
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    raise bad_input("config", f"model_type {shown(kind)} is not known; known: {listed(list(FAMILIES), first=20)}")
