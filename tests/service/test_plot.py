from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.plot import Curve, draw_curves


@pytest.mark.parametrize("ys", [[1.0, 2.0, 3.0], [1.0, None, 3.0], [None, None, None], [0, 0, 0]])
def test_every_curve_gets_a_panel_whatever_is_known_of_it(
    tmp_path: Path, ys: list[float | None]
) -> None:
    curve = Curve("images/s", "clients", [1, 2, 4], ys)

    draw_curves([curve, curve], tmp_path / "plot.png")

    pixels = np.asarray(Image.open(tmp_path / "plot.png"))
    assert pixels.shape == (360, 960, 3)
    assert (pixels[:, :480] == pixels[:, 480:]).all()
    assert (pixels < 255).any()
