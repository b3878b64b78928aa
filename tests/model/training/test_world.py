import torch

from model.training.world import join_world


def test_a_process_that_torchrun_did_not_start_is_alone() -> None:
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.device) == (0, 1, torch.device("cpu"))
        assert world.is_main
        assert world.sum(7).item() == 7
        model = torch.nn.Linear(2, 2)
        assert world.wrap(model) is model
