from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.training.config import TrainConfig

CONFIG = TrainConfig(train_data=Path("a"), output=Path("c"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "huge"}, "no variant 'huge'"),
        ({"val_fraction": 1}, "below 1"),
        ({"val_fraction": 0.2, "val_data": Path("d")}, "either"),
        ({"early_stopping": 0, "val_fraction": 0.2}, "at least one"),
        ({"early_stopping": 3}, "needs validation data"),
        ({"short_sides": ()}, "at least 32"),
        ({"short_sides": (64, 16)}, "at least 32"),
        ({"batch_size": 0}, "positive"),
        ({"epochs": 0}, "positive"),
        ({"freeze_stages": 5}, "4 stages"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
