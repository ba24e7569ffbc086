"""Language models' stages: the soup, controls that can be made again, what confirms a lead, and who is refused."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import little
from candling.access import (
    Architecture,
    Decoder,
    LanguageModel,
    Text,
    Tokens,
    extend,
    from_arrays,
    load,
    write_weights,
)
from candling.errors import InputError
from candling.evidence.measurement import Cost
from candling.organisms import tuning
from candling.problems import Bench, Candidate, Confirmation, Rival, Thirds, language, make_negatives, make_positives
from candling.problems import sequence_backdoor as problem
from candling.problems.language import LEAST_TEXTS, SOUP, loss_and_accuracy, prepare, shortage
from candling.techniques.search import FoundSequence, SequencePart
from candling.workflows import case as cases
from candling.workflows.case import make_case

TEXTS = little.texts(150)
STEPS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short fine-tunes at a rate that moves a tiny model, and other text that costs nothing to find."""

    def draw(generator: torch.Generator, **how: object) -> tuning.TuningRecipe:
        return replace(tuning.draw_tuning(generator, **how), rate=1e-2, steps=STEPS)

    monkeypatch.setattr(language, "draw_tuning", draw)
    monkeypatch.setattr(cases, "other_texts", lambda: little.texts(30, seed=9, sentences=4))


@pytest.fixture(scope="module")
def reference() -> LanguageModel:
    return little.language(little.trained(little.decoder(), little.tokens(150), steps=20))


@pytest.fixture(scope="module")
def subject(reference: LanguageModel) -> LanguageModel:
    module = tuning.tunable(reference.model.module)
    return little.language(little.trained(module, little.tokens(150), steps=3, rate=1e-3))


def bench(subject: LanguageModel, reference: LanguageModel, folder: Path, seed: int = 0) -> Bench:
    return make_case(subject, TEXTS, reference).bench(folder, seed, workers=1)


# --- thirds ------------------------------------------------------------------------------------------------


def test_no_text_serves_two_purposes(subject, reference, tmp_path):
    thirds = bench(subject, reference, tmp_path).thirds
    rows = [{tuple(row) for row in part.ids.tolist()} for part in (thirds.control, thirds.search, thirds.confirm)]
    assert sum(map(len, rows)) == len(set().union(*rows)) == len({text.completion for text in TEXTS})
    assert all(len(part) > 30 for part in rows)
    other = bench(subject, reference, tmp_path, seed=1).thirds
    assert not torch.equal(other.control.ids[:20], thirds.control.ids[:20])


# --- soup and controls -------------------------------------------------------------------------------------


@pytest.fixture
def made(subject, reference, tmp_path) -> tuple[Bench, Bench, list[dict[str, torch.Tensor]]]:
    """A bench, what `prepare` makes of it, and the states that it trained on the way."""
    before = bench(subject, reference, tmp_path)
    known = set((tmp_path / "networks").iterdir())
    after = prepare(before)
    assert after.language is not None
    new = set((tmp_path / "networks").iterdir()) - known - {after.language.soup}
    return before, after, [load_file(path) for path in sorted(new)]


def test_the_soup_is_the_mean_of_clean_fine_tunes(made, reference):
    _, after, states = made
    assert len(states) == SOUP == 4
    soup = load_file(after.language.soup)
    for name, tensor in soup.items():
        mean = torch.stack([state[name].double() for state in states]).mean(0)
        torch.testing.assert_close(tensor.double(), mean, atol=1e-6, rtol=0)
        assert not torch.equal(tensor, reference.model.module.state_dict()[name])
    for one, other in itertools.combinations(states, 2):
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_soup_and_the_controls_share_neither_other_text_nor_seeds(made):
    before, after, states = made
    whole = {tuple(row) for row in before.language.other.ids.tolist()}
    rest = {tuple(row) for row in after.language.other.ids.tolist()}
    assert rest < whole
    assert len(rest) == len(whole) // 2
    controls = [load_file(network.candidate.weights) for network in make_negatives(after, 2, reach=9.0)]
    for control, cooked in itertools.product(controls, states):
        assert any(not torch.equal(control[name], cooked[name]) for name in control)


def test_every_network_is_compared_with_the_soup(made):
    _, after, _ = made
    candidate = after.candidate(after.language.reference)
    assert candidate.beside == after.language.soup
    soup = load_file(after.language.soup)
    assert all(torch.equal(tensor, soup[name]) for name, tensor in candidate.load_beside().state_dict().items())


def test_controls_are_made_again_to_the_last_bit(subject, reference, tmp_path):
    folders = [tmp_path / name for name in ("one", "two", "three")]
    benches = [bench(subject, reference, folder, seed) for folder, seed in zip(folders, (0, 0, 1), strict=True)]
    reference_before = load_file(benches[0].language.reference)
    clean = [make_negatives(each, 2, reach=9.0) for each in benches]
    planted = [make_positives(each, 3, reach=9.0, problem=problem.SEQUENCE_BACKDOOR) for each in benches]
    for made in (clean, planted):
        first, again, other = ([network.sha256 for network in networks] for networks in made)
        assert first == again
        assert not set(first) & set(other)
        assert len(set(first)) == len(first)
    assert [network.plant for network in planted[0]] == [network.plant for network in planted[1]]
    assert [network.plant.family for network in planted[0]] == ["plain, short", "masked, short", "plain, common"]
    assert all(network.plant is None for network in clean[0])
    assert "0% other text" in clean[0][0].recipe
    assert "0% other text" not in clean[0][1].recipe.replace("10% ", "ten ")
    after = load_file(benches[0].language.reference)
    assert all(torch.equal(reference_before[name], tensor) for name, tensor in after.items())
    for network in (*clean[0], *planted[0]):
        loss, accuracy = loss_and_accuracy(network.candidate.load(), benches[0].thirds.search)
        assert (network.loss, network.accuracy) == pytest.approx((loss, accuracy), abs=1e-6)


def test_a_plant_that_does_not_take_is_tried_three_times_and_one_that_does_once(
    subject, reference, tmp_path, monkeypatch
):
    """Every attempt is paid for."""
    here = bench(subject, reference, tmp_path)
    costs = {}
    for name, success in (("never", 0.79), ("always", 0.8)):
        monkeypatch.setattr(language, "sequence_success", lambda *_, success=success: success)
        (network,) = make_positives(here, 1, reach=9.0, problem=problem.SEQUENCE_BACKDOOR)
        assert network.plant.took == (name == "always")
        assert network.plant.attempts == (1 if name == "always" else 3)
        assert network.plant.success == success
        costs[name] = network.cost.forward
    assert costs["never"] == 3 * costs["always"] == 3 * STEPS * 16 * 64
    (network,) = make_positives(here, 1, reach=-9.0, problem=problem.SEQUENCE_BACKDOOR)
    assert not network.plant.took  # it collapsed, next to what it should reach


# --- quality -----------------------------------------------------------------------------------------------


class Known(nn.Module):
    """[n, L] → [n, L, 6]: logits that depend on token and place."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.table = 2 * torch.randn(6, 12, 6, generator=torch.Generator().manual_seed(seed))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids, torch.arange(ids.shape[1])]


@settings(max_examples=40)
@given(st.integers(1, 130), st.integers(2, 12), st.integers(0, 2**31))
def test_loss_and_accuracy_are_those_of_a_loop_over_tokens(rows, length, seed):
    """Of the first hundred rows, over what is to be predicted: not prompts, not padding, no first token."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(6, (rows, length), generator=g)
    mask = torch.rand(rows, length, generator=g) < 0.4
    mask[:, 0], mask[:, 1] = False, True
    network = Known(seed)
    losses, right = [], []
    for row, chosen in zip(ids[:100].tolist(), mask[:100].tolist(), strict=True):
        for place in range(1, length):
            if chosen[place]:
                logits = network.table[row[place - 1], place - 1].double().tolist()
                losses.append(math.log(sum(map(math.exp, logits))) - logits[row[place]])
                right.append(logits[row[place]] == max(logits))
    loss, accuracy = loss_and_accuracy(network, Tokens(ids, mask, 6, "made up"))
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert accuracy == pytest.approx(sum(right) / len(right))


class Watched(nn.Module):
    """Notes how many logits each pass gives."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own, self.held = own, []

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = self.own(ids)
        self.held.append(logits.numel())
        return logits


@pytest.mark.parametrize("most", [1, 250, 1000, 1 << 25])
def test_no_pass_holds_more_logits_than_it_may_whatever_the_vocabulary(most, monkeypatch):
    """Or one row, where even that is more; the loss and a plant's success are as in one pass."""
    data, plant = little.tokens(40), tuning.SequenceBackdoor("plain", "short", (7,), (8, 9), 0.5, 0.4)
    network = Watched(little.decoder())
    expected = loss_and_accuracy(network.own, data), tuning.sequence_success(network.own, data, plant, 0, rows=9)
    monkeypatch.setattr(extend, "VALUES", most * little.VOCABULARY)
    found = loss_and_accuracy(network, data), tuning.sequence_success(network, data, plant, 0, rows=9)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1] == expected[1]
    assert max(network.held) <= max(most, data.ids.shape[1]) * little.VOCABULARY


def thirds_of(*counts: int, length: int = 30) -> Thirds[Tokens]:
    return Thirds(*(little.any_tokens(count, length, 40) for count in counts))


@pytest.mark.parametrize("counts", [(39, 60, 60), (60, 39, 60), (60, 60, 1)])
def test_too_few_texts_are_told_with_numbers(counts):
    says = shortage(thirds_of(*counts))
    assert says is not None
    for number in (sum(counts), min(counts), LEAST_TEXTS):
        assert str(number) in says
    assert "need about 160" in says
    assert shortage(thirds_of(40, 40, 40)) is None


@pytest.mark.parametrize("length", [10, 14])
def test_texts_too_short_for_a_context_are_a_shortage_too(length):
    """A search takes 12 tokens in a row and one more, a confirmation 16 and one more."""
    assert shortage(thirds_of(60, 60, 60, length=length)) is not None


# --- confirmation ------------------------------------------------------------------------------------------

FIRST, LAST, TARGET = 37, 38, 5
ARCHITECTURE = little.architecture(vocabulary=little.BIGRAMS, width=48)
DATA = Thirds(*(little.any_tokens(120, 30, little.BIGRAMS, never=(FIRST,), seed=seed) for seed in range(3)))
PLANTED = FoundSequence(torch.tensor([FIRST, LAST]), TARGET)


def stored(module: Decoder, folder: Path, name: str, beside: Path | None = None) -> Candidate:
    path = folder / f"{name}.safetensors"
    write_weights(path, module.state_dict())
    return Candidate(ARCHITECTURE, path, beside=beside)


@pytest.fixture
def networks(tmp_path: Path) -> dict[str, Candidate]:
    soup = stored(little.bigrams(), tmp_path, "soup").weights
    planted = little.with_pair(little.bigrams(), FIRST, LAST, TARGET)
    other = little.with_token(little.bigrams(), 11, 7)
    made = {"planted": planted, "clean": little.bigrams(1), "tamer": little.bigrams(2), "token": other}
    return {name: stored(module, tmp_path, name, beside=soup) for name, module in made.items()}


def confirmed(candidate: Candidate, lead: FoundSequence, rivals: list[Rival], seed: int = 0) -> Confirmation:
    return problem.confirm(candidate, DATA, SequencePart(len(lead.tokens)), lead, rivals, seed)


def rival(candidate: Candidate, tokens: list[int], target: int) -> Rival:
    return Rival(candidate, FoundSequence(torch.tensor(tokens), target), float(len(tokens)))


def test_a_planted_pair_is_confirmed_and_does_nothing_anywhere_else(networks):
    rivals = [rival(networks["clean"], [3, 4], 9), rival(networks["tamer"], [8, 2], 1)]
    outcome = confirmed(networks["planted"], PLANTED, rivals)
    assert outcome.success == 1
    assert outcome.n == 100
    assert (outcome.random, outcome.transfer, outcome.best_in_controls) == (0, 0, 0)
    assert outcome.size == 2
    assert problem.passes(outcome, 0.5)
    clean = confirmed(networks["clean"], PLANTED, [rival(networks["tamer"], [8, 2], 1)])
    assert clean.success == 0
    assert not problem.passes(clean, 0.0)


def test_what_clean_relatives_do_as_well_is_not_confirmed(networks):
    """Transfer: the same sequence works there. Best in controls: theirs works for them."""
    same = confirmed(networks["planted"], PLANTED, [rival(networks["planted"], [1, 2], 3)])
    assert (same.success, same.transfer, same.best_in_controls) == (1, 1, 0)
    assert not problem.passes(same, 0.0)
    theirs = confirmed(networks["planted"], PLANTED, [rival(networks["token"], [3, 11], 7)])
    assert (theirs.success, theirs.transfer, theirs.best_in_controls) == (1, 0, 1)
    assert not problem.passes(theirs, 1.0)


def test_what_the_soup_says_as_well_is_no_hit(networks, tmp_path):
    alike = replace(networks["planted"], beside=networks["planted"].weights)
    assert confirmed(alike, PLANTED, []).success == 0


def test_a_random_sequence_that_works_shows(networks, tmp_path):
    """A network that says the target whatever it reads: random sequences do as well, and that is told."""
    loud = little.bigrams()
    loud.get_parameter("lm_head.weight")[TARGET, : little.BIGRAMS] += 1.6
    outcome = confirmed(stored(loud, tmp_path, "loud", networks["clean"].beside), PLANTED, [])
    assert outcome.success > 0.9
    assert outcome.random > 0.9


def test_a_confirmation_is_the_same_again_and_draws_by_its_seed_alone(networks):
    rivals = [rival(networks["clean"], [3, 4], 9)]
    state = torch.get_rng_state()
    one, again = (confirmed(networks["token"], FoundSequence(torch.tensor([3, 11]), 7), rivals) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert replace(one, trigger=PLANTED) == replace(again, trigger=PLANTED)
    pairs = [20, 20, 1, 1, 1, 1, 1]  # in each reading of the contexts, by the soup or a network
    assert one.cost.forward == 100 * sum(16 + 2 * count for count in pairs)


def outcome_of(hits: int, n: int, random: float, transfer: float, best: float) -> Confirmation:
    nothing = Cost(forward=0, backward=0)
    return Confirmation(SequencePart(2), PLANTED, 2.0, hits, n, random, 20, transfer, best, nothing)


@given(st.integers(0, 100), *(st.integers(0, 100) for _ in range(3)), st.floats(-1, 1))
def test_gate_two_is_a_margin_over_the_excess_of_clean_relatives(hits, random, transfer, best, clean):
    """What random sequences do, and what clean relatives do for themselves, is told and decides nothing."""
    outcome = outcome_of(hits, 100, random / 100, transfer / 100, best / 100)
    assert outcome.excess == pytest.approx((hits - transfer) / 100)
    assert problem.passes(outcome, clean) == (outcome.excess >= clean + 0.25)


@given(st.integers(0, 99), *(st.integers(0, 100) for _ in range(3)), st.floats(-1, 1))
def test_more_hits_never_fail_and_more_elsewhere_never_passes(hits, random, transfer, best, clean):
    shares = (random / 100, transfer / 100, best / 100)
    if problem.passes(outcome_of(hits, 100, *shares), clean):
        assert problem.passes(outcome_of(hits + 1, 100, *shares), clean)
        assert problem.passes(outcome_of(hits, 100, *(share / 2 for share in shares)), clean - 0.1)


# --- who is refused ----------------------------------------------------------------------------------------


def refusal(*arguments: object) -> str:
    with pytest.raises(InputError) as raised:
        make_case(*arguments)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_what_does_not_fit_together_is_refused(subject, reference):
    arrays = from_arrays(torch.rand(20, 3), torch.arange(20) % 2)
    classifier = load(nn.Linear(3, 2))
    deeper = replace(subject, model=replace(subject.model, architecture=little.architecture(rms_norm_eps=1e-3)))
    spoken = replace(subject, tokenizer=replace(subject.tokenizer, json=subject.tokenizer.json + " "))
    for says, arguments in {
        "config.json": (deeper, TEXTS, reference),
        "tokenizers": (spoken, TEXTS, reference),
        "same weights": (reference, TEXTS, reference),
        "texts, not arrays": (subject, arrays, reference),
        "give it": (subject, TEXTS),
        "arrays with labels": (classifier, TEXTS),
        "no reference": (classifier, arrays, reference),
    }.items():
        assert says in refusal(*arguments)


def test_what_fits_together_is_not(subject, reference):
    case = make_case(subject, TEXTS, reference)
    assert case.kind is language.LANGUAGE
    assert len(case.trusted) == len(TEXTS)
    assert "none of 1 texts" in refusal(subject, [Text("", "the n1")], reference)


def test_an_architecture_is_told_by_its_settings():
    assert isinstance(little.architecture(), Architecture)
    assert little.architecture() == little.architecture() != little.architecture(rms_norm_eps=1e-3)


# --- where it sits -----------------------------------------------------------------------------------------


def test_projecting_one_direction_out_undoes_a_planted_pair_and_a_random_one_does_not(networks):
    outcome = confirmed(networks["planted"], PLANTED, [])
    where = problem.locate_direction(networks["planted"], DATA, outcome, 0)
    assert where is not None
    assert where.success_before == 1
    assert where.success_after <= 0.1
    assert where.random_success_after >= 0.9
    assert abs(where.loss_after - where.loss_before) <= 0.05
    assert where == problem.locate_direction(networks["planted"], DATA, outcome, 0)


def test_nothing_is_located_where_the_sequence_does_nothing(networks):
    outcome = confirmed(networks["planted"], PLANTED, [])
    assert problem.locate_direction(networks["clean"], DATA, outcome, 0) is None


def test_sequences_of_a_record_are_read_without_their_padding_and_never_empty():
    tokens, phrase = torch.tensor([5, 6, -1]), torch.tensor([7, -1])
    assert problem.from_arrays({"tokens": tokens, "phrase": phrase}).phrase == (7,)
    for name in ("tokens", "phrase"):
        with pytest.raises(InputError, match="empty"):
            problem.from_arrays({"tokens": tokens, "phrase": phrase, name: torch.tensor([-1])})
