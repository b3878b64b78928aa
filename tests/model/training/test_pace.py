from dataclasses import replace

import pytest
import torch

from model.training.config import TrainConfig
from model.training.losses import Losses
from model.training.pace import Pace


def losses(mask: float, category: float) -> Losses:
    return Losses(torch.tensor(float(mask)), torch.tensor(float(category)))


def test_losses_are_means_since_the_last_look(config: TrainConfig) -> None:
    pace = Pace(config)
    pace.add(losses(1, 10))
    pace.take()
    pace.add(losses(2, 20))
    pace.add(losses(4, 40))

    seen = pace.take()

    assert seen.mask == pytest.approx(3)
    assert seen.category == pytest.approx(30)
    assert seen.steps_per_s > 0


def test_a_state_is_due_by_iterations_or_by_the_clock(config: TrainConfig) -> None:
    by_count = Pace(replace(config, checkpoint_every=5, checkpoint_every_s=1e9))
    by_clock = Pace(replace(config, checkpoint_every=10**9, checkpoint_every_s=0))

    assert [by_count.state_is_due(i) for i in (4, 5, 6, 10)] == [False, True, False, True]
    assert by_clock.state_is_due(1)


def test_saving_time_is_not_held_against_the_steps(config: TrainConfig) -> None:
    clock = iter([0.0, 10.0, 110.0, 120.0])
    pace = Pace(config, clock=clock.__next__)
    pace.add(losses(1, 1))

    with pace.saving():
        pass
    pace.add(losses(1, 1))

    assert pace.take().steps_per_s == pytest.approx(2 / 20)
