from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from model.annotations.coco import read_coco
from model.training.augment import Augment
from model.training.config import AugmentConfig
from model.training.dataset import AnnotatedDataset
from model.training.sampler import AugmentedDataset, BatchSampler, Draw, batches_per_epoch

WIDE_AND_TALL = [True] * 13 + [False] * 10


def draw_batches(
    first: int = 0, last: int = 5, seed: int = 0, rank: int = 0, world_size: int = 1
) -> list[list[Draw]]:
    sampler = BatchSampler(
        WIDE_AND_TALL,
        batch_size=4,
        short_sides=(32, 48, 64),
        seed=seed,
        first=first,
        last=last,
        rank=rank,
        world_size=world_size,
    )
    return list(sampler)


def test_an_epoch_shows_no_picture_twice() -> None:
    indices = [draw.index for batch in draw_batches() for draw in batch]

    assert len(indices) == len(set(indices)) == 20


def test_epochs_differ_in_order_and_in_what_they_leave_out() -> None:
    epochs = [draw_batches(first, first + 5) for first in range(0, 50, 5)]

    shown = {draw.index for epoch in epochs for batch in epoch for draw in batch}
    assert shown == set(range(23))
    assert epochs[0] != epochs[1]


def test_batches_are_wide_or_tall_as_far_as_possible_and_of_one_short_side() -> None:
    batches = draw_batches()

    shapes = [len({WIDE_AND_TALL[draw.index] for draw in batch}) for batch in batches]
    assert shapes == [1, 1, 1, 1, 1]
    assert all(len({draw.short_side for draw in batch}) == 1 for batch in batches)
    assert len({batch[0].short_side for batch in draw_batches(0, 20)}) == 3


def test_what_is_left_of_both_shapes_shares_a_batch() -> None:
    landscape = [True] * 6 + [False] * 6

    sampler = BatchSampler(landscape, batch_size=4, short_sides=(32,), seed=0, first=0, last=3)

    wide = sorted(sum(landscape[draw.index] for draw in batch) for batch in sampler)
    assert wide == [0, 2, 4]


def test_a_resumed_run_gets_the_batches_it_would_have_had() -> None:
    assert draw_batches(first=3, last=12) == draw_batches(first=0, last=12)[3:]


def test_two_seeds_give_different_batches() -> None:
    assert draw_batches(seed=0) != draw_batches(seed=1)


def test_processes_share_each_batch() -> None:
    whole = draw_batches()
    parts = [draw_batches(rank=rank, world_size=2) for rank in (0, 1)]

    for batch, first, second in zip(whole, *parts, strict=True):
        assert len(first) == len(second) == 2
        assert {d.index for d in first + second} == {d.index for d in batch}
        assert {d.seed for d in first + second} == {d.seed for d in batch}


def test_a_data_set_smaller_than_a_batch_is_repeated() -> None:
    sampler = BatchSampler([True, False], batch_size=5, short_sides=(32,), seed=0, first=0, last=3)

    batches = list(sampler)

    assert [len(batch) for batch in batches] == [5, 5, 5]
    assert {draw.index for draw in batches[0]} == {0, 1}


def test_an_epoch_without_pictures_is_an_error() -> None:
    with pytest.raises(ValueError, match="no picture"):
        batches_per_epoch(0, 4)


def test_equal_draws_give_equal_samples_in_any_process(squares: Path) -> None:
    dataset = AugmentedDataset(
        AnnotatedDataset(read_coco(squares / "instances.json"), ("red", "blue")),
        Augment(AugmentConfig(crop=1, colour=1)),
        long_side=80,
    )
    draws = [Draw(0, 48, 5), Draw(1, 48, 6)]

    here = [dataset[draw] for draw in draws]
    torch.rand(3)  # what else the process draws does not matter
    elsewhere = next(
        iter(DataLoader(dataset, batch_sampler=[draws], collate_fn=list, num_workers=1))
    )

    for one, other in zip(here, elsewhere, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.masks, other.masks)
    assert not torch.equal(dataset[Draw(0, 48, 7)].image, here[0].image)


def test_drawing_a_sample_leaves_the_processs_own_random_numbers_alone(squares: Path) -> None:
    dataset = AugmentedDataset(
        AnnotatedDataset(read_coco(squares / "instances.json"), ("red", "blue")),
        Augment(AugmentConfig()),
        long_side=80,
    )
    before = torch.get_rng_state()

    dataset[Draw(0, 48, 5)]

    assert torch.equal(torch.get_rng_state(), before)
