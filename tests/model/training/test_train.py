import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.average_precision import AveragePrecision
from model.checkpoint import CheckpointError, load_checkpoint
from model.evaluate import CocoReport
from model.training.augment import Batch
from model.training.config import AugmentConfig, TrainConfig
from model.training.losses import Losses
from model.training.train import Trainer, train
from model.training.world import World
from model.voc import voc_metrics

CPU = World(0, 1, torch.device("cpu"))


class InterruptedTrainer(Trainer):
    """Is killed on its way to the sixth iteration."""

    def step(self, batch: Batch) -> Losses:
        if self.iteration == 5:
            raise KeyboardInterrupt
        return super().step(batch)


def saved_state(config: TrainConfig) -> dict[str, Any]:
    return torch.load(config.output / "last.pt", weights_only=True)


def log_lines(config: TrainConfig) -> list[dict[str, float]]:
    text = (config.output / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def first_batch(trainer: Trainer) -> Batch:
    return next(iter(trainer.loader()))


def test_a_run_leaves_weights_the_best_weights_a_state_and_a_log(config: TrainConfig) -> None:
    result = train(config)

    assert result.iterations == 6
    assert load_checkpoint(result.last).config.class_names == ("red", "blue")
    assert result.best is not None
    assert load_checkpoint(result.best).config.class_names == ("red", "blue")
    assert saved_state(config)["iteration"] == 6
    lines = log_lines(config)
    assert [line["iteration"] for line in lines if "loss_mask" in line] == [1, 2, 3, 4, 5, 6]
    measured = [line["mask_ap"] for line in lines if "mask_ap" in line]
    assert len(measured) == 2
    assert result.best_mask_ap == max(measured)


def test_the_best_weights_are_those_that_measured_best(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurement is faked: an untrained network scores zero every time."""
    scores, weights = iter([0.2, 0.5, 0.3]), []

    def measure(*args: Any, **options: Any) -> CocoReport:
        weights.append((config.output / "last.safetensors").read_bytes())
        precision = AveragePrecision(next(scores), *[0] * 11)
        voc = voc_metrics([], [])
        return CocoReport(precision, precision, per_class={}, voc=voc, images=1, seconds=0)

    monkeypatch.setattr("model.training.validation.evaluate_coco", measure)

    result = train(replace(config, epochs=3))

    assert result.best_mask_ap == 0.5
    assert result.best is not None
    assert result.best.read_bytes() == weights[1]
    assert result.last.read_bytes() == weights[2]


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_an_interrupted_run_ends_with_the_same_weights(
    config: TrainConfig, tmp_path: Path, optimiser: Any
) -> None:
    config = replace(config, optimiser=optimiser)
    whole = replace(config, output=tmp_path / "whole")
    train(whole)

    with pytest.raises(KeyboardInterrupt):
        InterruptedTrainer(config, CPU).run()
    assert saved_state(config)["iteration"] == 3
    train(replace(config, resume=True))

    for part in ("model", "ema"):
        assert_equal_tensors(saved_state(config)[part], saved_state(whole)[part])
    assert (config.output / "last.safetensors").read_bytes() == (
        whole.output / "last.safetensors"
    ).read_bytes()
    assert [line["iteration"] for line in log_lines(config)] == [
        line["iteration"] for line in log_lines(whole)
    ]


def assert_equal_tensors(actual: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert actual.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(actual[key], wanted[key])] == []


def test_a_finished_run_is_not_trained_again(config: TrainConfig) -> None:
    first = train(config)
    before = saved_state(config)["model"]

    again = train(replace(config, resume=True))

    assert again == first
    assert_equal_tensors(saved_state(config)["model"], before)


def test_the_state_of_another_network_is_refused(config: TrainConfig) -> None:
    train(replace(config, max_iterations=1))

    with pytest.raises(CheckpointError, match="another network"):
        train(replace(config, class_names=("red",), resume=True))


def test_a_folder_with_a_run_in_it_is_left_alone_unless_it_is_to_be_resumed(
    config: TrainConfig,
) -> None:
    train(replace(config, max_iterations=1))
    before = (config.output / "last.pt").read_bytes()

    with pytest.raises(ValueError, match="holds a run already"):
        train(config)

    assert (config.output / "last.pt").read_bytes() == before


def test_resuming_where_nothing_was_starts_at_the_beginning(config: TrainConfig) -> None:
    assert train(replace(config, max_iterations=1, resume=True)).iterations == 1


def test_early_stopping_ends_a_run_that_gets_no_better(config: TrainConfig) -> None:
    """A rate too small to change anything: the first measurement stays the best."""
    idle = replace(config, learning_rate=1e-12, epochs=20, early_stopping=2)

    result = train(idle)

    assert result.iterations == 9
    assert train(replace(idle, resume=True)) == result


def test_a_run_ends_with_a_report(config: TrainConfig) -> None:
    result = train(config)

    text = result.report.read_text()
    assert result.report == config.output / "report.html"
    assert "<td>red</td>" in text
    assert text.count("<figure>") == 6


@pytest.mark.parametrize(
    ("sides", "short", "longest"), [({}, 64, 64), ({"short_sides": (48,), "long_side": 96}, 48, 96)]
)
def test_pictures_are_later_sized_as_they_were_in_training(
    config: TrainConfig, sides: dict[str, Any], short: int, longest: int
) -> None:
    sizes = {"short_sides": None, "long_side": None, **sides}

    result = train(replace(config, max_iterations=1, **sizes))

    preprocess = load_checkpoint(result.last).config.preprocess
    assert (preprocess.short_side, preprocess.long_side) == (short, longest)


def test_long_sides_are_bounded_in_training_too(config: TrainConfig) -> None:
    """A picture of 64x48 becomes one of 80x60 on a canvas of 96x64."""
    trainer = Trainer(replace(config, short_sides=(64,), long_side=80), CPU)

    assert sorted(first_batch(trainer).images.shape[2:]) == [64, 96]


def test_unless_told_sizes_range_from_three_quarters_to_the_whole(
    config: TrainConfig, tmp_path: Path
) -> None:
    trainer = Trainer(
        replace(config, weights=None, variant="mobile", short_sides=None, long_side=None), CPU
    )

    assert {batch_size(batch) for batch in trainer.loader().batch_sampler} <= {288, 320, 352, 384}


def batch_size(draws: Any) -> int:
    [side] = {draw.short_side for draw in draws}
    return int(side)


def test_the_first_tenth_of_a_run_warms_up(config: TrainConfig) -> None:
    trainer = Trainer(replace(config, warmup_iterations=None, epochs=10), CPU)
    batch = first_batch(trainer)

    rates = []
    for _ in range(4):
        trainer.step(batch)
        rates.append(trainer.optimiser.param_groups[-1]["lr"])

    assert rates[0] == pytest.approx(1e-5)
    assert rates[:3] == sorted(rates[:3])
    assert rates[3] > 0.9 * config.learning_rate


def test_without_validation_data_there_is_no_best(config: TrainConfig) -> None:
    result = train(replace(config, val_data=None, max_iterations=1))

    assert result.best is None
    assert result.best_mask_ap is None
    assert result.last.exists()


def test_on_a_cpu_the_mobile_backbone_alone_has_its_channels_last(
    config: TrainConfig,
) -> None:
    trainer = Trainer(config, CPU)
    pyramid: list[Tensor] = []
    trainer.model.head.register_forward_pre_hook(lambda _, inputs: pyramid.extend(inputs[0]))

    trainer.step(first_batch(trainer))

    stem = next(trainer.model.backbone.parameters())
    assert not stem.is_contiguous()
    assert stem.is_contiguous(memory_format=torch.channels_last)
    assert all(level.is_contiguous() for level in pyramid)


def test_the_loss_goes_down(config: TrainConfig) -> None:
    still = AugmentConfig(flip=0, crop=0, colour=0)
    trainer = Trainer(
        replace(config, optimiser="adamw", epochs=100, short_sides=(48,), augment=still), CPU
    )
    batch = first_batch(trainer)

    losses = [trainer.step(batch).total.item() for _ in range(25)]

    assert losses[-1] < 0.6 * losses[0]


def test_bf16_training_stays_close_to_fp32(config: TrainConfig) -> None:
    exact = Trainer(config, CPU)
    rounded = Trainer(replace(config, precision="bf16"), CPU)
    batch = first_batch(exact)

    wanted = exact.step(batch).total.item()

    assert rounded.step(batch).total.item() == pytest.approx(wanted, rel=0.02)
    assert {p.dtype for p in rounded.model.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_ends_training_before_the_weights_change(
    config: TrainConfig,
) -> None:
    trainer = Trainer(config, CPU)
    batch = first_batch(trainer)
    before = trainer.model.head.kernel.weight.clone()
    broken = Batch(batch.images.clone().fill_(torch.nan), batch.targets)

    with pytest.raises(FloatingPointError, match="iteration 0"):
        trainer.step(broken)

    assert torch.equal(trainer.model.head.kernel.weight, before)


def test_gradients_are_clipped_to_the_norm_asked_for(config: TrainConfig) -> None:
    tight = replace(config, clip_grad_norm=1e-3, weight_decay=0, warmup_iterations=0)
    trainer = Trainer(tight, CPU)
    before = [p.detach().clone() for p in trainer.model.parameters()]

    trainer.step(first_batch(trainer))

    moved = torch.cat(
        [(p - b).flatten() for p, b in zip(trainer.model.parameters(), before, strict=True)]
    )
    assert moved.norm().item() == pytest.approx(config.learning_rate * 1e-3, rel=0.05)


def test_frozen_stages_stay_as_they_are(config: TrainConfig) -> None:
    trainer = Trainer(replace(config, freeze_stages=2, warmup_iterations=0), CPU)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}

    trainer.step(first_batch(trainer))

    after = trainer.model.state_dict()
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    frozen = {k for k in after if k.startswith("backbone.features.") and int(k.split(".")[2]) < 7}
    assert not changed & frozen
    assert "backbone.features.7.conv.0.0.weight" in changed


def test_a_batch_that_the_processes_cannot_share_is_refused(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="3 processes cannot share batches of 2"):
        Trainer(config, World(0, 3, torch.device("cpu")))


SCRIPT = """
import pickle, sys
from pathlib import Path
from model.training.train import train

result = train(pickle.loads(Path(sys.argv[1]).read_bytes()))
print("nothing to tell" if result is None else "a result", flush=True)
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(config: TrainConfig, tmp_path: Path) -> None:
    """Early stopping included, which one process decides for both."""
    alone = replace(config, batch_size=4, epochs=9, early_stopping=2, output=tmp_path / "alone")
    shared = replace(alone, output=tmp_path / "shared")
    train(alone)

    output = run_under_torchrun(shared, tmp_path)

    wanted, actual = saved_state(alone)["model"], saved_state(shared)["model"]
    for key, value in wanted.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-3, atol=1e-5)
    assert output.count("a result") == output.count("nothing to tell") == 1


def run_under_torchrun(config: TrainConfig, folder: Path) -> str:
    (folder / "config.pickle").write_bytes(pickle.dumps(config))
    (folder / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*launcher, str(folder / "script.py"), str(folder / "config.pickle")],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        cwd=Path(__file__).parents[3],
    ).stdout
