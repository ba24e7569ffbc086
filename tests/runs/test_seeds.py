"""Seeds: what is drawn depends on the job alone, and leaves the caller's random numbers alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from candling.runs.seeds import derive, reproducible


def global_state() -> tuple[bytes, int]:
    return torch.get_rng_state().numpy().tobytes(), torch.get_num_threads()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_random_numbers_and_threads_are_put_back_whatever_happens(threads, fails):
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        before = global_state()
        try:
            with reproducible(8) as generator:
                assert torch.get_num_threads() == 1
                torch.rand(9)
                torch.rand(9, generator=generator)
                if fails:
                    raise LookupError
        except LookupError:
            assert fails
        assert global_state() == before
    finally:
        torch.set_num_threads(usual)


def test_a_seed_gives_the_same_numbers_and_its_generator_others():
    drawn = []
    for seed in (1, 1, 2):
        with reproducible(seed) as generator:
            drawn.append((torch.rand(4).tolist(), torch.rand(4, generator=generator).tolist()))
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] != drawn[0][1]


@given(st.integers(0, 2**40), st.lists(st.one_of(st.integers(0, 99), st.text("ab", max_size=3)), max_size=4))
def test_a_job_s_seed_depends_on_the_whole_key(seed, key):
    derived = derive(seed, *key)
    assert 0 <= derived < 2**63
    assert derived == derive(seed, *key)
    assert derived != derive(seed + 1, *key)
    assert derived != derive(seed, *key, "more")


def test_a_job_s_seed_is_the_same_on_every_machine():
    assert derive(0, "negative", 3) == 458_194_303_377_668_473  # half of the hash's first eight bytes


def test_neighbouring_keys_do_not_run_together():
    assert len({derive(0, *key) for key in (("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"))}) == 4
