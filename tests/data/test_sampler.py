"""The promises of the mixed batch sampler, as properties."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semiisp_plugin.data.sampler import MixedBatchSampler, SampleIndex, permutation, sample_seed


@st.composite
def configurations(draw) -> dict[str, int]:
    """Arguments of a sampler; sources smaller than a batch are among them."""
    real, pseudo = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    if real + pseudo == 0:
        real = 1
    return {
        "n_real": draw(st.integers(1 if real else 0, 12)),
        "n_pseudo": draw(st.integers(1 if pseudo else 0, 40)),
        "real_per_batch": real,
        "pseudo_per_batch": pseudo,
        "seed": draw(st.integers(0, 2**40)),
        "num_batches": draw(st.integers(1, 12)),
    }


def batches(**arguments: int) -> list[list[SampleIndex]]:
    return list(MixedBatchSampler(**arguments))


def sequence(arguments: dict[str, int], source: int, length: int) -> list[SampleIndex]:
    """The first samples of a source, in the order in which they are used."""
    count = arguments[("real_per_batch", "pseudo_per_batch")[source]]
    sampler = MixedBatchSampler(**{**arguments, "num_batches": -(-length // count)})
    return [sample for batch in sampler for sample in batch if sample.source == source][:length]


@given(configurations())
def test_composition_is_exact(arguments):
    drawn = batches(**arguments)
    assert len(drawn) == arguments["num_batches"] == len(MixedBatchSampler(**arguments))
    for batch in drawn:
        assert [sample.source for sample in batch] == [0] * arguments["real_per_batch"] + [1] * arguments[
            "pseudo_per_batch"
        ]
        for sample in batch:
            assert isinstance(sample, SampleIndex)
            assert 0 <= sample.index < (arguments["n_real"], arguments["n_pseudo"])[sample.source]
            assert 0 <= sample.seed < 2**64


@given(configurations(), st.integers(1, 4))
def test_each_pass_visits_each_sample_once(arguments, passes):
    for source, (size, count) in enumerate((("n_real", "real_per_batch"), ("n_pseudo", "pseudo_per_batch"))):
        if not arguments[count]:
            continue
        n = arguments[size]
        order = [sample.index for sample in sequence(arguments, source, passes * n)]
        for number in range(passes):
            assert sorted(order[number * n : (number + 1) * n]) == list(range(n))


@given(configurations(), st.integers(2, 4))
def test_ranks_are_disjoint_and_together_one_process(arguments, world_size):
    whole = batches(
        **{
            **arguments,
            "real_per_batch": arguments["real_per_batch"] * world_size,
            "pseudo_per_batch": arguments["pseudo_per_batch"] * world_size,
        }
    )
    ranks = [batches(**arguments, rank=rank, world_size=world_size) for rank in range(world_size)]
    for number, batch in enumerate(whole):
        parts = [rank[number] for rank in ranks]
        assert {len(part) for part in parts} == {len(batch) // world_size}
        # In order within a source; a rank's own part of the source is contiguous.
        assert sorted(chain(*parts), key=lambda sample: sample.source) == batch
    # Seeds stand for positions in the sequence, so equal samples are equal positions.
    assert max(Counter(chain(*chain(*ranks))).values()) == 1


@given(configurations(), st.data())
def test_resuming_gives_the_same_tail(arguments, data):
    start = data.draw(st.integers(0, arguments["num_batches"]))
    whole = batches(**arguments)
    assert batches(**arguments, start_batch=start) == whole[start:]
    assert len(MixedBatchSampler(**arguments, start_batch=start)) == len(whole) - start
    state = pickle.loads(pickle.dumps(MixedBatchSampler(**arguments).state_dict(start)))
    resumed = MixedBatchSampler(**arguments)
    resumed.load_state_dict(state)
    assert list(resumed) == whole[start:]
    assert list(resumed) == whole[start:]  # iterating again begins there again


@given(configurations(), st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_a_batch_is_a_function_of_its_number(arguments, numbers):
    """Whatever was asked before: random access equals sequential access."""
    sampler = MixedBatchSampler(**arguments)
    for number in numbers:
        assert sampler.batch(number) == MixedBatchSampler(**arguments).batch(number)


@given(configurations(), st.integers(0, 6), st.integers(1, 40))
def test_sources_are_independent(arguments, other_count, other_size):
    """A source's sequence does not change with the other source."""
    for source, own in ((0, "real"), (1, "pseudo")):
        if not arguments[f"{own}_per_batch"]:
            continue
        other = "pseudo" if own == "real" else "real"
        changed = {**arguments, f"{other}_per_batch": other_count, f"n_{other}": other_size}
        assert sequence(arguments, source, 50) == sequence(changed, source, 50)


def test_sources_of_one_size_have_different_orders():
    drawn = batches(n_real=50, n_pseudo=50, real_per_batch=50, pseudo_per_batch=50, seed=0, num_batches=1)[0]
    assert [s.index for s in drawn[:50]] != [s.index for s in drawn[50:]]
    assert not {s.seed for s in drawn[:50]} & {s.seed for s in drawn[50:]}


def test_passes_have_different_orders_and_seeds_change_them():
    orders = {
        tuple(permutation(seed, source, epoch, 30)) for seed in range(5) for source in (0, 1) for epoch in range(5)
    }
    assert len(orders) == 50
    for seed in (0, 1, 2**32, 2**32 + 1):
        assert sorted(permutation(seed, 1, 3, 30)) == list(range(30))
    first = batches(n_real=30, n_pseudo=0, real_per_batch=5, pseudo_per_batch=0, seed=1, num_batches=20)
    second = batches(n_real=30, n_pseudo=0, real_per_batch=5, pseudo_per_batch=0, seed=2, num_batches=20)
    assert [[s.index for s in b] for b in first] != [[s.index for s in b] for b in second]
    assert not {s.seed for b in first for s in b} & {s.seed for b in second for s in b}


def test_augmentation_seeds_do_not_repeat_across_passes():
    drawn = batches(n_real=7, n_pseudo=11, real_per_batch=3, pseudo_per_batch=5, seed=3, num_batches=300)
    seeds = [sample.seed for batch in drawn for sample in batch]
    assert len(set(seeds)) == len(seeds) == 2400


def test_positions_are_uniform():
    """Each sample comes first equally often (chi-squared, 9 degrees of freedom, p about 1e-5 at 40)."""
    first = Counter(int(permutation(0, 0, epoch, 10)[0]) for epoch in range(2000))
    assert sum((first[i] - 200) ** 2 / 200 for i in range(10)) < 40


def test_seeds_are_the_same_on_every_machine_and_version():
    """A checkpoint is continued elsewhere only as long as these numbers, once printed, stay."""
    assert sample_seed(5, 1, 7) == 4018328682530626573
    assert sample_seed(2**40, 0, 123456789) == 13513879383357690
    assert len({sample_seed(5, 1, 7), sample_seed(5, 0, 7), sample_seed(5, 1, 8), sample_seed(6, 1, 7)}) == 4


def test_state_holds_plain_integers():
    """torch.load(weights_only=True), as used for checkpoints, refuses NumPy's."""
    sampler = MixedBatchSampler(np.int64(4), np.int64(0), np.int32(2), 0, seed=np.int64(1), num_batches=np.int64(9))
    assert {type(value) for value in sampler.state_dict(np.int64(3)).values()} == {int}


def test_passes():
    sampler = MixedBatchSampler(10, 40, 2, 3, seed=0, num_batches=100, world_size=2, rank=1)
    assert sampler.passes(5) == {"real": 2.0, "pseudo": 0.75}
    seen = {
        s.index
        for rank in (0, 1)
        for b in range(5)
        for s in MixedBatchSampler(10, 40, 2, 3, seed=0, num_batches=100, world_size=2, rank=rank).batch(b)
        if s.source == 1
    }
    assert len(seen) == 30
    assert MixedBatchSampler(10, 0, 2, 0, seed=0, num_batches=1).passes(5) == {"real": 1.0, "pseudo": 0.0}


def test_supervised_sampler():
    drawn = batches(n_real=4, n_pseudo=0, real_per_batch=2, pseudo_per_batch=0, seed=0, num_batches=2)
    assert sorted(sample.index for batch in drawn for sample in batch) == [0, 1, 2, 3]


@settings(max_examples=20)
@given(configurations())
def test_numpy_integers_are_integers(arguments):
    assert batches(**{name: np.int64(value) for name, value in arguments.items()}) == batches(**arguments)


GOOD = {"n_real": 4, "n_pseudo": 5, "real_per_batch": 1, "pseudo_per_batch": 2, "seed": 0, "num_batches": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_real": 0}, "real_per_batch is 1 but there are no real pairs"),
        ({"n_pseudo": 0}, "pseudo_per_batch is 2 but there are no pseudo pairs"),
        ({"real_per_batch": 0, "pseudo_per_batch": 0}, "would be empty"),
        ({"rank": 2, "world_size": 2}, r"rank is 2; with world_size 2 ranks are 0 \.\.\. 1"),
        ({"start_batch": 4}, "start_batch is 4, but the run has 3 batches"),
        ({"start_batch": -1}, "start_batch is -1"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        MixedBatchSampler(**{**GOOD, **change})


def test_state_of_another_run_is_refused():
    state = MixedBatchSampler(**GOOD).state_dict(2)
    with pytest.raises(ValueError, match="seed was 0, is 1; n_pseudo was 5, is 6"):
        MixedBatchSampler(**{**GOOD, "seed": 1, "n_pseudo": 6}).load_state_dict(state)
    with pytest.raises(ValueError, match="real_per_batch_of_all_ranks was 1, is 2"):
        MixedBatchSampler(**{**GOOD, "real_per_batch": 2}).load_state_dict(state)
    with pytest.raises(ValueError, match="start_batch is 2, but the run has 1"):
        MixedBatchSampler(**{**GOOD, "num_batches": 1}).load_state_dict(state)


def test_state_may_be_resumed_on_another_number_of_ranks():
    whole = MixedBatchSampler(**{**GOOD, "real_per_batch": 2, "pseudo_per_batch": 4})
    half = MixedBatchSampler(**GOOD, rank=1, world_size=2)
    half.load_state_dict(whole.state_dict(1))
    assert half.start_batch == 1
    assert whole.state_dict() == {**half.state_dict(), "start_batch": 0}


# --- unlabelled inputs ----------------------------------------------------------------------------------------------

THREE = {"n_real": 5, "n_pseudo": 9, "n_unlabelled": 7, "real_per_batch": 2, "pseudo_per_batch": 3}
THREE |= {"unlabelled_per_batch": 4, "seed": 4, "num_batches": 6}


def test_runs_without_unlabelled_inputs_are_what_they_were():
    """Batches and training states, printed before there was a third source."""
    sampler = MixedBatchSampler(5, 9, 2, 3, seed=4, num_batches=5, rank=1, world_size=2)
    assert [tuple(sample) for sample in sampler.batch(3)] == [
        (0, 4, 16475023465924219071),
        (0, 1, 8430417289650688379),
        (1, 1, 13295421483983281822),
        (1, 2, 15064687418335935077),
        (1, 5, 11983285014314198028),
    ]
    state = {"start_batch": 2, "seed": 4, "n_real": 5, "real_per_batch_of_all_ranks": 4}
    state |= {"n_pseudo": 9, "pseudo_per_batch_of_all_ranks": 6}
    assert sampler.state_dict(2) == state
    sampler.load_state_dict(state)
    assert sampler.start_batch == 2
    assert sampler.passes(3) == {"real": 2.4, "pseudo": 2.0}
    assert MixedBatchSampler(5, 9, 2, 3, n_unlabelled=0, seed=4, num_batches=5).sources == ("real", "pseudo")


@given(configurations(), st.integers(1, 20), st.integers(0, 4), st.integers(1, 3))
def test_unlabelled_samples_follow_the_others_and_change_nothing_of_them(arguments, size, count, world_size):
    for rank in range(world_size):
        process = {"rank": rank, "world_size": world_size}
        without = batches(**arguments, **process)
        drawn = batches(**arguments, **process, n_unlabelled=size, unlabelled_per_batch=count)
        for before, batch in zip(without, drawn, strict=True):
            assert batch[: len(before)] == before
            added = batch[len(before) :]
            assert [sample.source for sample in added] == [2] * count
            assert all(0 <= sample.index < size for sample in added)


def test_each_pass_visits_each_unlabelled_input_once():
    drawn = [sample for batch in batches(**{**THREE, "num_batches": 14}) for sample in batch if sample.source == 2]
    for number in range(8):
        assert sorted(sample.index for sample in drawn[number * 7 : (number + 1) * 7]) == list(range(7))
    assert len({sample.seed for sample in drawn}) == len(drawn) == 56
    assert MixedBatchSampler(**THREE).passes(7) == {"real": 2.8, "pseudo": 21 / 9, "unlabelled": 4.0}


def test_unlabelled_inputs_without_pseudo_pairs():
    drawn = batches(n_real=3, n_pseudo=0, real_per_batch=1, pseudo_per_batch=0, n_unlabelled=4, unlabelled_per_batch=2,
                    seed=0, num_batches=4)  # fmt: skip
    assert [[sample.source for sample in batch] for batch in drawn] == [[0, 2, 2]] * 4


def test_states_with_and_without_unlabelled_inputs_are_told_apart():
    sampler = MixedBatchSampler(**THREE)
    state = sampler.state_dict(3)
    assert {type(value) for value in state.values()} == {int}
    resumed = MixedBatchSampler(**THREE)
    resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
    assert list(resumed) == list(sampler)[3:]
    without = {**THREE, "n_unlabelled": 0, "unlabelled_per_batch": 0}
    with pytest.raises(ValueError, match=r"n_unlabelled was 7, is None; unlabelled_per_batch_of_all_ranks was 4, is N"):
        MixedBatchSampler(**without).load_state_dict(state)
    with pytest.raises(ValueError, match="n_unlabelled was None, is 7"):
        sampler.load_state_dict(MixedBatchSampler(**without).state_dict(3))
    with pytest.raises(ValueError, match="unlabelled_per_batch is 4 but there are no unlabelled inputs; set"):
        MixedBatchSampler(**{**THREE, "n_unlabelled": 0})
