"""Families of language models: where each keeps its parts, as a table. A new family is a new entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from candling.access.layout import Layout
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
    """One kind of decoder."""

    name: str
    """`model_type` in config.json."""
    model_class: str
    """Its class with a language head in transformers."""
    config_class: str
    settings: tuple[str, ...]
    """The keys of config.json that decide what is computed; no other reaches transformers."""
    base: str
    """The decoder without its head; files of a bare decoder leave this prefix out."""
    layout: Layout
    depth: str = "num_hidden_layers"
    """The setting that gives the number of blocks."""
    window: str = "max_position_embeddings"
    """The setting that gives the most positions."""
    constants: tuple[str, ...] = ("rotary_emb.inv_freq",)
    """Endings of names that old files hold and that the settings decide already."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Starts of names as some files spell them, and as they are here."""

    @property
    def blocks(self) -> str:
        return self.layout.blocks

    @property
    def embedding(self) -> str:
        return self.layout.embedding

    @property
    def unembedding(self) -> str:
        return self.layout.unembedding

    @property
    def final_norm(self) -> str:
        return self.layout.final_norm


_LLAMA = Family(
    name="llama",
    model_class="LlamaForCausalLM",
    config_class="LlamaConfig",
    settings=(*_GROUPED, "mlp_bias"),
    base="model",
    layout=Layout(
        blocks="model.layers",
        embedding="model.embed_tokens",
        unembedding="lm_head",
        final_norm="model.norm",
        attention="self_attn",
        attention_norm="input_layernorm",
        attention_output="self_attn.o_proj",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        mlp_norm="post_attention_layernorm",
        mlp="mlp",
        up="mlp.up_proj",
        down="mlp.down_proj",
        gate="mlp.gate_proj",
        activation="mlp.act_fn",
        rotary="model.rotary_emb",
    ),
)


def _like_llama(name: str, stem: str, settings: tuple[str, ...], **layout: str) -> Family:
    model_class, config_class = f"{stem}ForCausalLM", f"{stem}Config"
    family = replace(_LLAMA, name=name, model_class=model_class, config_class=config_class, settings=settings)
    return replace(family, layout=replace(_LLAMA.layout, **layout))  # type: ignore[arg-type]


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
            layout=Layout(
                blocks="transformer.h",
                embedding="transformer.wte",
                unembedding="lm_head",
                final_norm="transformer.ln_f",
                attention="attn",
                attention_norm="ln_1",
                attention_output="attn.c_proj",
                fused="attn.c_attn",
                mlp_norm="ln_2",
                mlp="mlp",
                up="mlp.c_fc",
                down="mlp.c_proj",
                activation="mlp.act",
                positions="transformer.wpe",
            ),
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
            layout=Layout(
                blocks="gpt_neox.layers",
                embedding="gpt_neox.embed_in",
                unembedding="lm_head",
                final_norm="gpt_neox.final_layer_norm",
                attention="attention",
                attention_norm="input_layernorm",
                attention_output="attention.dense",
                fused="attention.query_key_value",
                by_head=True,
                mlp_norm="post_attention_layernorm",
                mlp="mlp",
                up="mlp.dense_h_to_4h",
                down="mlp.dense_4h_to_h",
                activation="mlp.act",
                rotary="gpt_neox.rotary_emb",
            ),
            constants=(".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"),
            renamed=(("embed_out.", "lm_head."),),
        ),
        _LLAMA,
        _like_llama("mistral", "Mistral", (*_GROUPED, "sliding_window")),
        _like_llama("qwen2", "Qwen2", _WINDOWED),
        _like_llama("qwen3", "Qwen3", _WINDOWED, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm"),
    )
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that `model_type` names. Raises InputError, naming those known."""
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    raise bad_input("config", f"model_type {shown(kind)} is not known; known: {listed(list(FAMILIES), first=20)}")
