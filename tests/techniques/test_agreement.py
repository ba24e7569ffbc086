"""Agreement: only where programs differ does it tell them apart."""

import numpy as np
import torch

from candling.techniques.verify.agreement import agree, levelled


def test_a_rival_is_refuted_where_it_differs_and_only_there():
    program = np.arange(200) % 2
    logits = torch.stack([torch.from_numpy(1.0 - program), torch.from_numpy(program * 1.0)], 1)
    wrong, same, near = program.copy(), program.copy(), program.copy()
    wrong[:20] = 1 - wrong[:20]
    near[:3] = 1 - near[:3]
    found = agree(logits, program, {"wrong": wrong, "same": same, "near": near})
    assert [each.refuted for each in found.rivals] == [True, None, None]
    assert [each.agreement.value for each in found.rivals] == [0.9, 1.0, 0.985]
    against = agree(logits, wrong, {"right": program})
    assert against.rivals[0].refuted is False
    assert against.agreement.value == 0.9


def test_a_rival_that_few_inputs_tell_apart_is_left_open():
    """Seven of eight may be chance (its interval holds a half); two of eight are the rival's."""
    program = np.zeros(400, dtype=np.int64)
    rival = program.copy()
    rival[:8] = 1
    for wrong, refuted in ((0, True), (1, None), (6, False)):
        answers = program.copy()
        answers[:wrong] = 1
        logits = torch.nn.functional.one_hot(torch.from_numpy(answers), 2).float()
        found = agree(logits, program, {"rival": rival}, {"tree": rival})
        assert [(each.refuted, each.fitted) for each in found.rivals] == [(refuted, False), (refuted, True)]


def test_errors_near_the_edge_are_not_among_the_sure():
    lead = torch.linspace(-1, 1, 100)
    logits = torch.stack([torch.zeros(100), lead], 1)
    program = (lead > 0.1).long().numpy()
    found = agree(logits, program, {})
    assert found.agreement.value == 0.95
    assert found.confident.value == 1.0


def test_an_untrained_network_is_made_to_answer_as_variedly():
    logits = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) * 0.01 + torch.tensor([3.0, 0.0])
    like = (np.arange(400) % 4 == 0).astype(np.int64)
    assert logits.argmax(1).sum() == 0
    assert levelled(logits, like).mean() == 0.25
