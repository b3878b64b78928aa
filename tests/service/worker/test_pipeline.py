import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.structures import Instances, MaskCrops
from service.errors import BadImageError
from service.protocol import Frame, Kind, receive_frame, send_frame
from service.settings import Settings
from service.worker.pipeline import Pipeline, answer_frames, load_pipeline

Encode = Callable[..., bytes]


def test_an_image_becomes_the_json_of_what_is_in_it(fake_predictor, photo: bytes) -> None:
    fragment = Pipeline(fake_predictor, Settings()).score(photo)

    (found,) = json.loads(fragment)["boxes"]
    assert found["label"] == "person"
    assert found["box"] == {"topX": 0.25, "topY": 0.25, "bottomX": 0.75, "bottomY": 0.75}


def test_the_predictor_sees_rgb_and_the_orientation_setting_counts(
    fake_predictor, encode: Encode
) -> None:
    seen: list[np.ndarray] = []

    class Watching:
        config = fake_predictor.config

        def predict(self, images: Sequence[np.ndarray]) -> list[Instances]:
            seen.extend(images)
            return fake_predictor.predict(images)

    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (40, 20), (255, 0, 0)), "PNG", exif=exif)

    Pipeline(Watching(), Settings()).score(data)
    Pipeline(Watching(), Settings(apply_exif=True)).score(data)

    assert [image.shape for image in seen] == [(20, 40, 3), (40, 20, 3)]
    assert seen[0][0, 0].tolist() == [255, 0, 0]


def test_the_tolerance_setting_decides_how_many_points_are_sent(
    fake_predictor, encode: Encode
) -> None:
    rows, columns = np.ogrid[:200, :200]
    disc = (rows - 100) ** 2 + (columns - 100) ** 2 <= 80**2
    found = Instances(
        np.array([0.9], np.float32),
        np.array([0]),
        np.array([(20, 20, 181, 181)]),
        MaskCrops.pack([disc[20:181, 20:181]]),
        200,
        200,
    )

    class FindsADisc:
        config = fake_predictor.config

        def predict(self, images: Sequence[np.ndarray]) -> list[Instances]:
            return [found]

    data = encode(Image.new("RGB", (200, 200)), "PNG")
    points = [
        len(
            json.loads(
                Pipeline(FindsADisc(), Settings(polygon_tolerance_px=tolerance)).score(data)
            )["boxes"][0]["polygon"][0]
        )
        for tolerance in (0.5, 3)
    ]

    assert points[0] > points[1]


def test_an_image_too_long_and_thin_for_the_model_is_the_clients_mistake(
    fake_predictor, encode: Encode
) -> None:
    with pytest.raises(BadImageError, match="too long and thin"):
        Pipeline(fake_predictor, Settings()).score(encode(Image.new("L", (1, 5000)), "PNG"))


@pytest.mark.parametrize(("limit", "refused"), [(64 * 48, False), (64 * 48 - 1, True)])
def test_the_limit_on_pixels_holds_in_the_decoder_too(
    fake_predictor, photo: bytes, limit: int, refused: bool
) -> None:
    pipeline = Pipeline(fake_predictor, Settings(max_image_pixels=limit))

    if refused:
        with pytest.raises(BadImageError, match="64x48 pixels, more than the limit"):
            pipeline.score(photo)
    else:
        assert json.loads(pipeline.score(photo))["boxes"]


def test_what_cannot_be_decoded_is_the_clients_mistake(fake_predictor) -> None:
    with pytest.raises(BadImageError, match="not a JPEG"):
        Pipeline(fake_predictor, Settings()).score(b"no image")


def test_a_shortage_of_memory_is_ours(
    fake_predictor, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode_image(data: bytes, **options: object) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr("service.worker.pipeline.decode_image", decode_image)
    questions, answers = io.BytesIO(), io.BytesIO()
    send_frame(questions, Frame(Kind.SCORE, photo))
    questions.seek(0)

    answer_frames(Pipeline(fake_predictor, Settings()), questions, answers)

    answers.seek(0)
    assert receive_frame(answers) == Frame(Kind.FAILED)


def test_a_loaded_pipeline_scores_with_the_thresholds_of_the_settings(
    tiny_weights: Path, photo: bytes
) -> None:
    found, nothing = (
        json.loads(
            load_pipeline(
                Settings(weights=tiny_weights, devices="cpu", score_threshold=threshold)
            ).score(photo)
        )["boxes"]
        for threshold in (0.05, 1)
    )

    assert {one["label"] for one in found} <= {"person", "cat"}
    assert found
    assert nothing == []


def test_every_frame_gets_its_answer_until_the_pipe_closes(fake_predictor, photo: bytes) -> None:
    questions, answers = io.BytesIO(), io.BytesIO()
    for data in (photo, b"no image", photo):
        send_frame(questions, Frame(Kind.SCORE, data))
    questions.seek(0)

    answer_frames(Pipeline(fake_predictor, Settings()), questions, answers)

    answers.seek(0)
    kinds = [receive_frame(answers).kind for _ in range(3)]
    assert kinds == [Kind.RESULT, Kind.BAD_IMAGE, Kind.RESULT]
    assert receive_frame(answers) is None


def test_a_bug_costs_one_image_and_its_details_stay_in_the_log(
    fake_predictor, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    class Stumbles:
        config = replace(fake_predictor.config)

        def predict(self, images: Sequence[np.ndarray]) -> list[Instances]:
            raise ValueError("shapes (3,) and (4,) do not fit")

    questions, answers = io.BytesIO(), io.BytesIO()
    send_frame(questions, Frame(Kind.SCORE, photo))
    questions.seek(0)

    answer_frames(Pipeline(Stumbles(), Settings()), questions, answers)

    answers.seek(0)
    assert receive_frame(answers) == Frame(Kind.FAILED)
    assert "do not fit" in caplog.text
