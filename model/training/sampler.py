"""Which pictures make up each batch, and with which seed they are changed.

Everything follows from the seed and the iteration's number, so that an interrupted run goes on
with exactly the batches it would have had, and several processes agree without talking.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset, Sampler

from model.training.augment import Augment
from model.training.dataset import Sample


@dataclass(frozen=True, slots=True)
class Draw:
    """One picture of one batch."""

    index: int
    short_side: int
    seed: int


class AugmentedDataset(Dataset[Sample]):
    """Samples by ``Draw``: equal draws give equal samples, in any process."""

    def __init__(self, samples: Dataset[Sample], augment: Augment, *, long_side: int) -> None:
        self._samples = samples
        self._augment = augment
        self._long_side = long_side

    def __getitem__(self, draw: Draw) -> Sample:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            return self._augment(self._samples[draw.index], draw.short_side, self._long_side)


class BatchSampler(Sampler[list[Draw]]):
    """This process's share of the batches of iterations ``first`` to ``last`` - 1.

    An epoch shows every picture at most once; the few that do not fill a batch are left out.
    Wide and tall pictures go into separate batches as far as possible, and a batch has one
    short side, because every picture is padded to the largest of its batch.

    Args:
        landscape: For each picture, whether it is wide rather than tall.
        batch_size: Of all processes together; a multiple of ``world_size``.
        short_sides: One of these is drawn for each batch, pixels.
        seed: Of order, sizes and augmentation.
        first: First iteration, counted from the start of training.
        last: One past the last iteration.
        rank: Number of this process.
        world_size: How many processes share each batch.
    """

    def __init__(
        self,
        landscape: Sequence[bool],
        *,
        batch_size: int,
        short_sides: Sequence[int],
        seed: int,
        first: int,
        last: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._landscape = torch.tensor(landscape)
        self._batch_size = batch_size
        self._short_sides = short_sides
        self._seed = seed
        self._iterations = range(first, last)
        self._share = slice(rank, None, world_size)
        self.batches_per_epoch = batches_per_epoch(len(landscape), batch_size)

    def __len__(self) -> int:
        return len(self._iterations)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, batches = -1, torch.empty(0)
        for iteration in self._iterations:
            if iteration // self.batches_per_epoch != epoch:
                epoch = iteration // self.batches_per_epoch
                batches = self._epoch(epoch)
            yield self._draws(iteration, batches[iteration % self.batches_per_epoch].tolist())

    def _draws(self, iteration: int, indices: list[int]) -> list[Draw]:
        generator = _generator(self._seed, 1, iteration)
        side = self._short_sides[
            int(torch.randint(len(self._short_sides), (), generator=generator))
        ]
        seeds = torch.randint(2**62, (len(indices),), generator=generator).tolist()
        draws = [Draw(index, side, seed) for index, seed in zip(indices, seeds, strict=True)]
        return draws[self._share]

    def _epoch(self, epoch: int) -> torch.Tensor:
        """(batches, batch_size) int64 indices of pictures."""
        generator = _generator(self._seed, 0, epoch)
        order = torch.randperm(len(self._landscape), generator=generator)
        # A data set smaller than one batch is repeated until it fills it.
        order = order.repeat(max(1, -(-self._batch_size // len(order))))
        wide, tall = order[self._landscape[order]], order[~self._landscape[order]]
        whole = [
            group[: len(group) // self._batch_size * self._batch_size] for group in (wide, tall)
        ]
        rest = torch.cat([wide[len(whole[0]) :], tall[len(whole[1]) :]])
        rest = rest[: len(rest) // self._batch_size * self._batch_size]
        batches = torch.cat([*whole, rest]).view(-1, self._batch_size)
        return batches[torch.randperm(len(batches), generator=generator)]


def batches_per_epoch(num_pictures: int, batch_size: int) -> int:
    """Raises ValueError for a data set without pictures."""
    if num_pictures == 0:
        raise ValueError("there is no picture to train on")
    return max(1, num_pictures // batch_size)


def _generator(seed: int, stream: int, number: int) -> torch.Generator:
    """Independent random numbers for each (seed, stream, number)."""
    mixed = hash((seed, stream, number))  # of integers: the same in every process
    return torch.Generator().manual_seed(mixed % 2**63)
