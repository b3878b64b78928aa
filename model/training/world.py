"""The processes that share one training run."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_VALIDATION_LIMIT = timedelta(hours=2)  # the others wait while the first process validates


@dataclass(frozen=True, slots=True)
class World:
    """This process's place and device; a single process is a world of size 1."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model`` with gradients averaged over the processes."""
        if self.size == 1:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)

    def sum(self, value: int) -> torch.Tensor:
        """The sum of every process's ``value``, a scalar on this device."""
        total = torch.tensor(float(value), device=self.device)
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def wait(self) -> None:
        """Return once every process got here."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def join_world(device: str) -> Iterator[World]:
    """Take this process's place among those ``torchrun`` started, or be the only one.

    Args:
        device: ``auto`` for CUDA where there is one, else a torch device.
    """
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if not dist.is_torchelastic_launched():
        yield World(0, 1, torch.device(chosen))
        return
    backend = "gloo"
    if chosen == "cuda":
        backend, chosen = "nccl", f"cuda:{dist.get_node_local_rank()}"
        torch.cuda.set_device(chosen)
    dist.init_process_group(backend, timeout=_VALIDATION_LIMIT)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), torch.device(chosen))
    finally:
        dist.destroy_process_group()
