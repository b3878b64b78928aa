import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import PreprocessConfig
from model.preprocess import place
from service.dispatch.canvas import canvas_of

SIDES = st.integers(1, 3000)


@pytest.mark.parametrize(("short_side", "long_side"), [(800, 1333), (512, 853), (64, 96)])
@given(width=SIDES, height=SIDES)
def test_the_canvas_is_the_one_on_which_the_model_places_the_picture(
    short_side: int, long_side: int, width: int, height: int
) -> None:
    config = PreprocessConfig(short_side=short_side, long_side=long_side)
    picture = np.broadcast_to(np.zeros(3, np.uint8), (height, width, 3))

    forecast = canvas_of(width, height, short_side=short_side, long_side=long_side)

    try:
        expected = place(picture, config).canvas
    except ValueError:  # too long and thin: the worker will say so
        return
    assert forecast == expected


def test_a_picture_too_long_and_thin_for_the_model_has_a_canvas_all_the_same() -> None:
    assert canvas_of(16_000, 1, short_side=800, long_side=1333) == (32, 1344)
