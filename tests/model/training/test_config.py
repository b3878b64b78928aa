from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.training.config import TrainConfig

CONFIG = TrainConfig(train_images=Path("a"), train_annotations=Path("b"), output=Path("c"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "huge"}, "no variant 'huge'"),
        ({"val_images": Path("d")}, "both"),
        ({"short_sides": ()}, "do not fit"),
        ({"short_sides": (600,)}, "do not fit into 512"),
        ({"batch_size": 0}, "positive"),
        ({"epochs": 0}, "positive"),
        ({"freeze_stages": 5}, "4 stages"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
