"""Language models from folders: the same logits as transformers', and a clear refusal of everything odd."""

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from languages import END, SETTINGS, VOCABULARY, WINDOW, byte_level, change, network, save
from nets import check_line
from torch import nn

from candling.access import FAMILIES, LanguageModel, Tokenizer, fill, load_language, observe, read_texts, tokenise
from candling.access.pretrained import Blueprint
from candling.access.tokenizer import read_tokenizer
from candling.errors import CandlingError, InputError, UnsafeInputError

REAL = Path(os.environ.get("CANDLING_REAL", Path(__file__).parents[3] / "shared" / "real"))
KINDS = sorted(SETTINGS)
IDS = torch.arange(24).view(2, 12) * 7 % VOCABULARY


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        save(kind, root / kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture
def llama(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(folders["llama"], tmp_path / "model"))


def refusal(path: Path | str, kind: type[CandlingError], says: str = "", **options: object) -> str:
    with pytest.raises(CandlingError) as raised:
        load_language(path, **options)
    assert type(raised.value) is kind, raised.value
    line = check_line(raised.value)
    assert says in line, line
    return line


def stored(path: Path) -> dict[str, torch.Tensor]:
    """Not mapped: the file may be written over."""
    return safetensors.torch.load(path.read_bytes())


def rewrite(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    safetensors.torch.save_file(edit(stored(path)), path)


# --- what is read ------------------------------------------------------------------------------------------


def test_every_family_is_tested() -> None:
    assert sorted(FAMILIES) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(folders: dict[str, Path], kind: str) -> None:
    loaded = load_language(folders[kind])
    ours = loaded.model.module(IDS)
    theirs = network(kind)
    with torch.no_grad():
        expected = theirs(input_ids=IDS).logits
    assert ours.shape == (2, 12, VOCABULARY)
    assert torch.allclose(ours, expected, atol=1e-6)
    assert loaded.window == WINDOW
    assert loaded.family.name == kind
    assert sorted(loaded.files) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert not any(parameter.requires_grad for parameter in loaded.model.module.parameters())
    assert loaded.model.module.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_right_changes_nothing_before_it(folders: dict[str, Path], kind: str) -> None:
    module = load_language(folders[kind]).model.module
    padded = torch.cat([IDS, torch.zeros(2, 5, dtype=torch.int64)], 1)
    assert torch.allclose(module(padded)[:, :12], module(IDS), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_names_the_parts(folders: dict[str, Path], kind: str) -> None:
    """Attention and MLP add up to what a block adds, and their outputs come from the layers named."""
    loaded = load_language(folders[kind])
    family, module = loaded.family, loaded.model.module
    block = f"{family.blocks}.1"
    places = {
        name: f"{block}.{getattr(family.layout, name)}" for name in ("attention", "attention_output", "mlp", "down")
    }
    sites = [f"{family.blocks}.0", block, family.final_norm, family.embedding, family.unembedding, *places.values()]
    seen = observe(module, IDS, sites).activations
    added = seen[block] - seen[f"{family.blocks}.0"]
    assert torch.allclose(added, seen[places["attention"]] + seen[places["mlp"]], atol=1e-5)
    assert torch.equal(seen[places["attention"]], seen[places["attention_output"]])
    assert torch.equal(seen[places["mlp"]], seen[places["down"]])
    assert torch.equal(seen[family.unembedding], module(IDS))
    assert torch.equal(seen[family.embedding], module.get_submodule(family.embedding)(IDS))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_one_is_random_but_seeded_and_pickles(folders: dict[str, Path], kind: str) -> None:
    model = load_language(folders[kind]).model
    architecture = pickle.loads(pickle.dumps(model.architecture))
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(architecture())
    first, again, other = (fresh(IDS) for fresh in made)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    fill(made[0], model.module.state_dict())
    assert torch.equal(made[0](IDS), model.module(IDS))
    assert pickle.loads(pickle.dumps(model.module))(IDS).equal(model.module(IDS))


def test_loading_leaves_the_callers_random_numbers_alone(folders: dict[str, Path]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_language(folders["gpt2"])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_kinds_of_number(folders: dict[str, Path], kind: str, dtype: str) -> None:
    logits = load_language(folders[kind], dtype=dtype).model.module(IDS)
    assert logits.dtype == getattr(torch, dtype)
    exact = load_language(folders[kind]).model.module(IDS)
    assert torch.allclose(logits.float(), exact, atol=0.05 if dtype == "bfloat16" else 1e-5)


def test_an_unknown_kind_of_number(folders: dict[str, Path]) -> None:
    refusal(folders["llama"], InputError, "int4", dtype="int4")


def test_shards_are_joined(llama: Path) -> None:
    model = network("llama")
    whole = load_language(llama).model
    (llama / "model.safetensors").unlink()
    model.save_pretrained(llama, max_shard_size="20KB")
    assert len(list(llama.glob("*.safetensors"))) > 2
    loaded = load_language(llama)
    assert loaded.model.sha256 == whole.sha256
    assert len(loaded.files) == len(list(llama.glob("*.safetensors"))) + 3


def test_files_of_older_days(folders: dict[str, Path], tmp_path: Path) -> None:
    """No prefix and masks beside the weights (gpt2); another name of the head (gpt_neox)."""
    for kind, edit in {
        "gpt2": lambda name: name.removeprefix("transformer."),
        "gpt_neox": lambda name: name.replace("lm_head.", "embed_out."),
    }.items():
        folder = shutil.copytree(folders[kind], tmp_path / kind)
        constant = {"gpt2": "h.0.attn.bias", "gpt_neox": "gpt_neox.layers.0.attention.bias"}[kind]
        rewrite(
            folder,
            lambda old, edit=edit, constant=constant: {
                **{edit(name): value for name, value in old.items()},
                constant: torch.ones(4, 4),
            },
        )
        loaded = load_language(folder)
        assert loaded.model.sha256 == load_language(folders[kind]).model.sha256
        assert constant in loaded.notes[0]


def test_harmless_keys_are_dropped_with_a_note(llama: Path) -> None:
    sha256 = load_language(llama).model.architecture.sha256
    change(
        llama / "config.json",
        _name_or_path="someone/something",
        _attn_implementation_autoset=True,
        unsloth_version="2025.1",
    )
    loaded = load_language(llama)
    assert loaded.notes == ["config.json: dropped _attn_implementation_autoset, _name_or_path, unsloth_version"]
    assert loaded.model.architecture.sha256 == sha256


def test_settings_that_would_change_what_comes_out_are_not_passed_on(llama: Path) -> None:
    change(
        llama / "config.json", output_attentions=True, output_hidden_states=True, return_dict=False, use_cache=True
    )
    assert load_language(llama).model.module(IDS).shape == (2, 12, VOCABULARY)


def test_importing_does_not_import_transformers() -> None:
    code = "import candling, sys; sys.exit(any(n in sys.modules for n in ('transformers', 'tokenizers', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not (REAL / "stories260K").is_dir(), reason="no real inputs here")
def test_a_real_model_predicts_real_stories() -> None:
    loaded = load_language(REAL / "stories260K")
    tokens = tokenise(read_texts(REAL / "tinystories.jsonl")[::5], loaded.tokenizer, length=512)
    total = 0.0
    for part in torch.arange(len(tokens)).split(50):
        rows = tokens.take(part)
        logits = loaded.model.module(rows.ids)[:, :-1]
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), rows.ids[:, 1:], reduction="none")
        total += float(losses[rows.mask[:, 1:]].sum())
    assert total / int(tokens.mask.sum()) == pytest.approx(1.62, abs=0.08)
    assert loaded.tokenizer.piece(317) == " Lily"
    assert loaded.tokenizer.piece(13) == "\n"


# --- what is refused ---------------------------------------------------------------------------------------

UNSAFE_CONFIGS = {
    "auto_map": {"auto_map": {"AutoModel": "modeling.Mine"}},
    "trust_remote_code": {"trust_remote_code": True},
    "custom_pipelines": {"custom_pipelines": {}},
    "kernel": {"_attn_implementation": "someone/kernel"},
    "nested": {"rope_scaling": {"inner": [{"auto_map": 1}]}},
    "nested repository": {"rope_scaling": {"type": "someone--code"}},
    "module": {"hidden_act": "os.system"},
    "file": {"anything": "evil.py"},
    "address": {"anything": "http://example"},
}


@pytest.mark.parametrize("kind", UNSAFE_CONFIGS)
def test_a_config_that_names_code_is_unsafe(llama: Path, kind: str) -> None:
    change(llama / "config.json", **UNSAFE_CONFIGS[kind])
    refusal(llama, UnsafeInputError)


BAD_CONFIGS = {
    "unknown family": ({"model_type": "t5"}, "gpt2, gpt_neox, llama, mistral, qwen2, qwen3"),
    "no family": ({"model_type": None}, "known"),
    "family no text": ({"model_type": ["llama"]}, "known"),
    "no vocabulary": ({"vocab_size": None}, "vocab_size"),
    "vocabulary no number": ({"vocab_size": "300"}, "vocab_size"),
    "absurd vocabulary": ({"vocab_size": 2**31 - 1}, "[300, 32] not [2147483647, 32]"),
    "absurd width": ({"hidden_size": 2**40}, "config.json"),
    "absurd depth": ({"num_hidden_layers": 2**30}, "2 blocks"),
    "absurd middle": ({"intermediate_size": 10**12}, "differs in 6"),
    "absurd heads": ({"num_attention_heads": 10**9}, "config.json"),
    "no heads": ({"num_attention_heads": 0}, "config.json"),
    "negative window": ({"max_position_embeddings": -1}, "max_position_embeddings"),
    "unknown activation": ({"hidden_act": "nothing"}, "builds no llama"),
    "wrong type": ({"hidden_size": "32"}, "builds no llama"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantised"),
    "bos out of range": ({"bos_token_id": VOCABULARY}, "bos_token_id"),
    "eos no id": ({"eos_token_id": ["a"]}, "eos_token_id"),
    "biases that are not there": ({"attention_bias": True}, "missing"),
    "another shape": ({"hidden_size": 64}, "differs in 21"),
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_a_config_that_does_not_fit_is_refused_before_anything_is_allocated(llama: Path, kind: str) -> None:
    fields, says = BAD_CONFIGS[kind]
    change(llama / "config.json", **fields)
    refusal(llama, InputError, says)


JUNK = [None, True, 0, -1, 1, 2, 7, 2**31, 10**40, 1.5, 1e308, "", "x", "linear", [], [None], {}, {"type": "linear"}]
JUNK += [["full_attention"], ["sliding_attention"] * 2, {"rope_type": "yarn", "factor": 4.0}, {"rope_theta": 0}]
JUNK += [{"rope_type": "longrope", "long_factor": [1.0] * 4}, {"full_attention": {"rope_type": "default"}}]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_settings_are_loaded_or_refused(folders: dict[str, Path], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    keys = st.sampled_from([*FAMILIES[kind].settings, "bos_token_id", "eos_token_id", "dtype", "id2label"])
    path = folders[kind] / "config.json"
    original = path.read_text()
    path.write_text(json.dumps(json.loads(original) | data.draw(st.dictionaries(keys, st.sampled_from(JUNK)))))
    try:
        line = check_logits(load_language(folders[kind]))
    except InputError as error:
        line = check_line(error)
    finally:
        path.write_text(original)
    assert line


def check_logits(loaded: LanguageModel) -> str:
    assert loaded.model.module(IDS[:, :2]).isfinite().all()
    return "loaded"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a":1,"a":2}', '{"a":NaN}', "[" * 100_000, "\ufeff{}"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_files_that_are_no_json_object(llama: Path, name: str, text: str) -> None:
    (llama / name).write_text(text)
    assert name in refusal(llama, InputError)


def test_missing_files(llama: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        (llama / name).unlink()
        assert name in refusal(llama, InputError)
    refusal(tmp_path / "nowhere at all", InputError, "no such folder")
    refusal("a\0b", InputError)
    refusal("x" * 5000, InputError)


def test_a_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **options: list[str]) -> None:
        assert "*.bin" not in options["allow_patterns"]
        raise OSError("https://… timed out\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    refusal("someone/something", InputError, "give a folder")


def test_missing_extra_and_misshaped_weights(llama: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    original = (llama / "model.safetensors").read_bytes()
    for edit, says in (
        (lambda old: {k: v for k, v in old.items() if k != name}, f"missing {name}"),
        (lambda old: {**old, "model.extra": torch.ones(1)}, "extra model.extra"),
        (lambda old: {**old, name: torch.ones(3, 3)}, f"{name} is [3, 3] not [48, 32]"),
        (lambda old: {f"model.layers.{n}.x": torch.ones(1) for n in range(2)}, "in 23: missing"),
        (lambda old: {**old, name: torch.full((48, 32), torch.nan)}, "NaN"),
        (lambda old: {**old, name: torch.ones(48, 32, dtype=torch.int8)}, "int8"),
    ):
        (llama / "model.safetensors").write_bytes(original)
        rewrite(llama, edit)
        refusal(llama, InputError, says)


def test_tied_weights_may_be_left_out_but_not_contradict(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["qwen3"], tmp_path / "tied")
    assert "lm_head.weight" not in stored(folder / "model.safetensors")
    embedding = "model.embed_tokens.weight"
    rewrite(folder, lambda old: {**old, "lm_head.weight": old[embedding].clone()})
    assert load_language(folder).model.sha256 == load_language(folders["qwen3"]).model.sha256
    rewrite(folder, lambda old: {**old, "lm_head.weight": old[embedding] + 1})
    refusal(folder, InputError, "tied")
    rewrite(folder, lambda old: {k: v for k, v in old.items() if k not in (embedding, "lm_head.weight")})
    refusal(folder, InputError, "missing model.embed_tokens.weight")


def test_pickles_in_place_of_weights(llama: Path) -> None:
    weights = llama / "model.safetensors"
    state = stored(weights)
    torch.save(state, weights)
    refusal(llama, UnsafeInputError, "candling convert IN.pt OUT.safetensors")
    weights.rename(llama / "pytorch_model.bin")
    refusal(llama, UnsafeInputError, "candling convert IN.pt OUT.safetensors")


def index(folder: Path, name: object) -> None:
    state = stored(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    places = dict.fromkeys(state, "part.safetensors") | {"lm_head.weight": name}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize(
    "name", ["../part.safetensors", "/etc/passwd", "missing.safetensors", "sub/x.safetensors", "..", "", "part.bin"]
)
def test_an_index_that_leads_elsewhere(llama: Path, name: str) -> None:
    shutil.copy(llama / "model.safetensors", llama.parent / "part.safetensors")
    index(llama, name)
    refusal(llama, UnsafeInputError)


def test_an_index_that_is_none_or_contradicts_its_shard(llama: Path) -> None:
    index(llama, 5)
    refusal(llama, InputError, "weight_map")
    path = llama / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"x": "part.safetensors"}}))
    refusal(llama, InputError, "differ")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_links_that_lead_out_of_the_folder(llama: Path, name: str) -> None:
    outside = llama.parent / name
    (llama / name).rename(outside)
    (llama / name).symlink_to(outside)
    refusal(llama, UnsafeInputError, "link")
    (llama / name).unlink()
    (llama / name).symlink_to(name)
    refusal(llama, UnsafeInputError, "link")


def test_links_within_the_folder_and_into_the_hubs_cache_are_followed(llama: Path, tmp_path: Path) -> None:
    (llama / "model.safetensors").rename(llama / "real")
    (llama / "model.safetensors").symlink_to("real")
    load_language(llama)
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(llama / name, blobs / f"hash-of-{name}")
        (snapshot / name).symlink_to(f"../../blobs/hash-of-{name}")
    load_language(snapshot)


# --- tokenizers --------------------------------------------------------------------------------------------


def test_a_tokenizer_gives_back_what_it_got(folders: dict[str, Path]) -> None:
    tokenizer = pickle.loads(pickle.dumps(load_language(folders["gpt2"]).tokenizer))
    assert (tokenizer.size, tokenizer.bos, tokenizer.eos) == (VOCABULARY, END, END)
    text = "in the cat, é\n\x00 and more than five tokens"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    pieces = [tokenizer.piece(token) for token in ids]
    assert pieces[:6] == ["in", " the", " cat", ",", " ", "\\xc3"]
    assert tokenizer.piece(END) == "<end>"
    assert tokenizer.piece(VOCABULARY - 1) == f"<{VOCABULARY - 1}>"
    assert "encode" not in repr(tokenizer)
    assert len(repr(tokenizer)) < 100


def test_pieces_of_sentencepiece_and_word_tokenizers() -> None:
    import tokenizers
    from tokenizers import models

    vocabulary = {"<unk>": 0, "<0x0A>": 1, "<0xE2>": 2, "\u2581Lily": 3, "word": 4}
    built = tokenizers.Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer = Tokenizer(built.to_str(), 5)
    assert [tokenizer.piece(token) for token in range(5)] == ["<unk>", "\n", "\\xe2", " Lily", "word"]


@pytest.mark.parametrize("text", ["{}", '{"model": 5}', '{"version": "9"}', '{"version":"1.0","model":{"type":"X"}}'])
def test_what_is_no_tokenizer(text: str) -> None:
    with pytest.raises(InputError) as raised:
        read_tokenizer(text, size=5, bos=None, eos=None)
    check_line(raised.value)


def test_a_tokenizer_that_fails_at_work_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    whole = json.loads(byte_level())
    empty = {"type": "Replace", "pattern": {"String": ""}, "content": "x"}  # the library panics
    nothing_unknown = {"type": "WordPiece", "unk_token": "q", "continuing_subword_prefix": "#"}
    nothing_unknown |= {"max_input_chars_per_word": 9, "vocab": {"a": 0}}
    for fields in ({"normalizer": empty}, {"model": nothing_unknown}):
        with pytest.raises(InputError, match="fails on a text") as raised:
            read_tokenizer(json.dumps({**whole, **fields}), size=VOCABULARY, bos=None, eos=None)
        check_line(raised.value)


def test_a_tokenizer_larger_than_the_embedding() -> None:
    with pytest.raises(InputError, match="<end> has id 264, but the embedding has 264 rows") as raised:
        read_tokenizer(byte_level(), size=END, bos=None, eos=None)
    check_line(raised.value)
    read_tokenizer(byte_level(), size=END + 1, bos=None, eos=None)


# --- adapters ----------------------------------------------------------------------------------------------

RANK, ALPHA = 3, 12
LAYERS = {"gpt2": "c_attn", "gpt_neox": "dense", "llama": "q_proj", "mistral": "v_proj", "qwen2": "o_proj"}


def write_adapter(folder: Path, reference: LanguageModel, target: str, **fields: object) -> None:
    """An adapter on every layer with this last name, as peft writes them."""
    state = {}
    torch.manual_seed(3)
    for path, part in reference.model.module.named_modules():
        if path.endswith(f".{target}"):
            rows, columns = part.weight.shape if isinstance(part, nn.Linear) else part.weight.T.shape
            state[f"base_model.model.{path}.lora_A.weight"] = torch.randn(RANK, columns)
            state[f"base_model.model.{path}.lora_B.weight"] = torch.randn(rows, RANK)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": [target],
    }
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    safetensors.torch.save_file(state, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("rank_stable", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_an_adapter_is_merged_as_defined(
    folders: dict[str, Path], tmp_path: Path, kind: str, rank_stable: bool
) -> None:
    reference = load_language(folders[kind])
    before = reference.model.module.state_dict()
    write_adapter(tmp_path / "a", reference, LAYERS[kind], use_rslora=rank_stable, base_model_name_or_path="x/y")
    merged = load_language(tmp_path / "a", reference=reference)
    parts = stored(tmp_path / "a" / "adapter_model.safetensors")
    scale = ALPHA / (RANK**0.5 if rank_stable else RANK)
    changed = 0
    for name, value in merged.model.module.state_dict().items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        expected = before[name].double()
        if f"{stem}.lora_A.weight" in parts:
            a, b = (parts[f"{stem}.lora_{end}.weight"].double() for end in "AB")
            delta = torch.einsum("or,ri->oi", b, a) * scale
            expected = expected + (delta.T if kind == "gpt2" else delta)
            changed += 1
        assert torch.allclose(value.double(), expected, atol=1e-5)
    assert changed >= 2
    assert merged.model.sha256 != reference.model.sha256
    assert merged.notes == ["adapter_config.json: base_model_name_or_path not followed"]
    assert sorted(merged.files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert load_language(folders[kind]).model.sha256 == reference.model.sha256


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rank_stable", [False, True])
@pytest.mark.parametrize(
    ("kind", "target"), [("gpt2", ["c_attn", "c_proj"]), ("llama", "all-linear"), ("qwen2", ".*v_proj")]
)
def test_an_adapter_of_peft_is_merged_as_peft_does(
    folders: dict[str, Path], tmp_path: Path, kind: str, target: object, rank_stable: bool
) -> None:
    import peft

    recipe = peft.LoraConfig(
        r=4, lora_alpha=9, target_modules=target, use_rslora=rank_stable, init_lora_weights=False
    )
    recipe.task_type = "CAUSAL_LM"
    wrapped = peft.get_peft_model(network(kind), recipe)
    wrapped.save_pretrained(tmp_path / "a")
    merged = load_language(tmp_path / "a", reference=load_language(folders[kind]))
    with torch.no_grad():
        expected = wrapped.merge_and_unload()(input_ids=IDS).logits
    assert torch.allclose(merged.model.module(IDS), expected, atol=1e-4)


BAD_ADAPTERS = {
    "another kind": ({"peft_type": "IA3"}, "LORA"),
    "dora": ({"use_dora": True}, "use_dora"),
    "several ranks": ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
    "more weights": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "biases": ({"bias": "all"}, "bias"),
    "changes the reference": ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    "unknown": ({"brand_new": 1}, "brand_new"),
    "rank 0": ({"r": 0}, "r is 0"),
    "rank of another": ({"r": 4}, "not [4, 32]"),
    "alpha no number": ({"lora_alpha": "12"}, "lora_alpha"),
    "alpha infinite": ({"lora_alpha": 1e400}, "Infinity"),
    "alpha absurd": ({"lora_alpha": 1e10}, "lora_alpha"),
    "no targets": ({"target_modules": []}, "target_modules"),
    "targets odd": ({"target_modules": [1]}, "target_modules"),
    "more targets": ({"target_modules": ["q_proj", "k_proj"]}, "missing"),
    "other targets": ({"target_modules": ["k_proj"]}, "extra"),
    "targets that are not there": ({"target_modules": ["nothing"]}, "extra"),
    "flag no flag": ({"use_rslora": 1}, "use_rslora"),
}


@pytest.mark.parametrize("kind", BAD_ADAPTERS)
def test_adapters_that_are_refused(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    fields, says = BAD_ADAPTERS[kind]
    reference = load_language(folders["llama"])
    write_adapter(tmp_path / "a", reference, "q_proj", **fields)
    refusal(tmp_path / "a", InputError, says, reference=reference)


def test_a_pattern_from_a_file_is_never_run(folders: dict[str, Path], tmp_path: Path) -> None:
    reference = load_language(folders["llama"])
    write_adapter(tmp_path / "a", reference, "q_proj", target_modules="(((a|.)*)*)*!")
    assert "pattern" in load_language(tmp_path / "a", reference=reference).notes[0]


def test_adapter_folders_that_are_incomplete(folders: dict[str, Path], tmp_path: Path) -> None:
    reference = load_language(folders["llama"])
    folder = tmp_path / "a"
    write_adapter(folder, reference, "q_proj")
    refusal(folder, InputError, "give the reference")
    refusal(folder, InputError, "extra", reference=load_language(folders["gpt2"]))
    weights = folder / "adapter_model.safetensors"
    state = stored(weights)
    first = next(iter(state))
    for wrong, says in (
        ({k: v for k, v in state.items() if k != first}, f"missing {first[:10]}"),
        ({**state, "other": torch.ones(1)}, "extra other"),
        ({**state, first: torch.full_like(state[first], torch.nan)}, "NaN"),
        ({**state, first: torch.full_like(state[first], 1e38)}, "NaN or Inf"),
    ):
        safetensors.torch.save_file(wrong, weights)
        refusal(folder, InputError, says, reference=reference)
    weights.rename(folder / "adapter_model.bin")
    refusal(folder, UnsafeInputError, "pickle", reference=reference)
    shutil.copy(folders["llama"] / "config.json", folder)
    refusal(folder, InputError, "one model's folder", reference=reference)


def test_a_blueprint_says_which_family_it_is_of() -> None:
    blueprint = Blueprint(json.dumps({"model_type": "llama", **SETTINGS["llama"]}))
    assert blueprint.family is FAMILIES["llama"]
    assert blueprint()(IDS).shape == (2, 12, VOCABULARY)
