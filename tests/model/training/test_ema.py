import pytest
import torch
from torch import nn

from model.training.ema import EMA


def test_the_average_follows_its_definition() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ema = EMA(model, decay=0.2)
    wanted = model.weight.detach().clone()

    for n in range(5):
        nn.init.normal_(model.weight)
        ema.update(model)
        decay = min(0.2, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * model.weight.detach()

    torch.testing.assert_close(ema.model.weight, wanted)


def test_the_average_is_a_model_of_its_own() -> None:
    model = nn.Linear(3, 2)
    ema = EMA(model, decay=0.9)
    before = ema.model.weight.clone()

    nn.init.zeros_(model.weight)

    assert torch.equal(ema.model.weight, before)
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_buffers_are_copied() -> None:
    model = nn.BatchNorm2d(4)
    ema = EMA(model, decay=0.9)
    model.running_mean = torch.arange(4.0)

    ema.update(model)

    assert ema.model.running_mean.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_a_model_that_stands_still_is_its_own_average(decay: float) -> None:
    model = nn.Linear(3, 2)
    ema = EMA(model, decay)

    for _ in range(3):
        ema.update(model)

    torch.testing.assert_close(ema.model.weight, model.weight)
