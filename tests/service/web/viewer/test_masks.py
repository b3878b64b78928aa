from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from browsing import (
    BLACK,
    BLUE,
    NO_PLAYWRIGHT,
    PNG,
    SEEN,
    SeesColours,
    choose,
    drawing,
    given,
    in_browser,
    of_colour,
    on_screen,
    saved,
    scored_directly,
    set_threshold,
    tinted,
)
from PIL import Image

from model.decode import decode_image
from service.settings import Settings

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)
from playwright.sync_api import Page, expect

pytestmark = in_browser


class TestMasks:
    def test_cover_every_pixel_of_their_object_and_no_other(self, page: Page) -> None:
        choose(page, given("drawing.png", PNG))
        pixels = np.asarray(drawing())

        for threshold, colours in ((0.5, [BLACK]), (0.3, [BLACK, BLUE]), (0.0, list(SEEN))):
            set_threshold(page, threshold)

            expected = np.any([of_colour(pixels, colour) for colour in colours], axis=0)
            np.testing.assert_array_equal(tinted(page), expected)

    def test_lie_where_the_json_says_at_any_size_of_the_photo(
        self, open_page: Callable[..., Page], service: str
    ) -> None:
        large = saved(drawing().resize((1203, 751), Image.Resampling.NEAREST), "PNG")
        page = open_page(service, viewport={"width": 1000, "height": 613}, device_scale_factor=2)
        choose(page, given("large.png", large))
        set_threshold(page, 0)
        [answer] = scored_directly(service, large).json()

        photo = page.locator("#photo").bounding_box()
        # In the page the largest is drawn first; in the answer the best.
        areas = [
            (b["bottomX"] - b["topX"]) * (b["bottomY"] - b["topY"])
            for b in (instance["box"] for instance in answer["boxes"])
        ]
        boxes = [answer["boxes"][i]["box"] for i in np.argsort(areas)[::-1]]
        drawn = page.locator("#masks .fill").evaluate_all(
            "(paths) => paths.map((path) => path.getBoundingClientRect().toJSON())"
        )

        assert photo["width"] < 1000
        assert photo["width"] / photo["height"] == pytest.approx(1203 / 751, rel=2e-3)
        assert page.locator("#masks").bounding_box() == pytest.approx(photo, abs=0.05)
        for box, rectangle in zip(boxes, drawn, strict=True):
            for side, name, start, length in (
                ("left", "topX", photo["x"], photo["width"]),
                ("right", "bottomX", photo["x"], photo["width"]),
                ("top", "topY", photo["y"], photo["height"]),
                ("bottom", "bottomY", photo["y"], photo["height"]),
            ):
                assert rectangle[side] == pytest.approx(start + box[name] * length, abs=0.05)

    def test_have_outlines_that_leave_the_bridges_to_holes_out(
        self, page: Page, service: str
    ) -> None:
        [answer] = scored_directly(service, PNG).json()

        pixels = page.evaluate(
            """async (polygon) => {
                const { outlinePath } = await import('/viewer/geometry.js');
                const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
                const inPixels = (ring) => ring.map((v, i) => v * [320, 200][i % 2]);
                path.setAttribute('d', outlinePath(polygon.map(inPixels)));
                return path.getTotalLength();
            }""",
            answer["boxes"][0]["polygon"],
        )

        assert pixels == pytest.approx(2 * (120 + 130 + 60 + 70 + 16 + 24 + 30 + 40), abs=0.1)

    def test_are_counted_without_their_holes(self, page: Page) -> None:
        choose(page, given("drawing.png", PNG))
        set_threshold(page, 0)

        percent = [
            float(text.removesuffix(" %"))
            for text in page.locator("#rows td:last-child").all_inner_texts()
        ]

        pixels = np.asarray(drawing())
        assert percent == pytest.approx(
            [100 * of_colour(pixels, colour).mean() for colour in SEEN], abs=0.5
        )


def turned_files(
    file_format: str, orientations: Sequence[int] = range(1, 9), **options: Any
) -> list[dict[str, Any]]:
    """One for each of EXIF's orientations, of a picture with no symmetry."""
    picture = Image.new("RGB", (128, 64), "white")
    picture.paste(BLACK, (0, 0, 48, 16))
    picture.paste(BLACK, (0, 16, 16, 48))
    files = []
    for orientation in orientations:
        exif = Image.Exif()
        exif[274] = orientation
        data = saved(picture, file_format, exif=exif, **options)
        files.append(given(f"{orientation}.{file_format}", data))
    return files


@pytest.mark.parametrize(
    ("file_format", "orientations", "options"),
    [
        ("JPEG", range(1, 9), {"quality": 95}),
        ("PNG", (3, 6), {}),
        ("WEBP", (3, 6), {"lossless": True}),
    ],
    ids=["JPEG", "PNG", "WebP"],
)
@pytest.mark.parametrize("apply_exif", [False, True])
def test_masks_fit_photos_that_are_stored_turned(
    open_page: Callable[..., Page],
    serve_in_thread: Callable,
    apply_exif: bool,
    file_format: str,
    orientations: Sequence[int],
    options: dict[str, Any],
) -> None:
    settings = Settings(apply_exif=apply_exif)
    with serve_in_thread(settings, SeesColours(apply_exif=apply_exif)) as url:
        page = open_page(url)
        choose(page, *turned_files(file_format, orientations, **options))

        for tile in page.locator("#strip .choose").all():
            tile.click()
            expect(page.locator("#photo")).to_have_js_property("complete", True)

            dark = of_colour(on_screen(page, masks=False), BLACK)
            assert dark.sum() == 48 * 16 + 16 * 32
            np.testing.assert_array_equal(tinted(page), dark)


def test_the_size_in_the_table_is_that_of_the_stored_pixels(page: Page) -> None:
    choose(page, *turned_files("JPEG", (1, 3, 5, 6), quality=95))

    for tile in page.locator("#strip .choose").all():
        tile.click()
        expect(page.locator("#rows td").nth(1)).to_have_text("48 \N{MULTIPLICATION SIGN} 48")


class TestTurnedPhotos:
    def test_can_be_turned_upright_and_scored_again(self, page: Page) -> None:
        sixth = turned_files("JPEG", [6], quality=95)[0]
        choose(page, sixth)

        page.get_by_role("button", name="Turn it upright").click()

        expect(page.locator("#notes")).to_have_text(
            "Scored from an upright copy of 64 \N{MULTIPLICATION SIGN} 128 pixels."
        )
        dark = of_colour(on_screen(page, masks=False), BLACK)
        assert dark.shape == (128, 64)
        np.testing.assert_array_equal(
            dark, of_colour(decode_image(sixth["buffer"], apply_exif=True), BLACK)
        )
        np.testing.assert_array_equal(tinted(page), dark)

    def test_are_not_spoken_of_when_they_are_upright(self, page: Page) -> None:
        choose(page, turned_files("JPEG", [1], quality=95)[0])

        expect(page.locator("#notes li")).to_have_count(0)


def test_a_file_over_the_limit_is_scored_from_a_smaller_copy_which_is_said_and_shown(
    open_page: Callable[..., Page], serve_in_thread: Callable
) -> None:
    noise = np.random.default_rng(0).integers(200, 256, (300, 400, 3), np.uint8)
    noise[80:200, 64:160] = 0
    sees_colours = SeesColours()
    with serve_in_thread(Settings(max_body_bytes=60_000), sees_colours) as url:
        page = open_page(url)
        choose(page, given("noise.png", saved(Image.fromarray(noise), "PNG")))

        [scored] = sees_colours.scored
        assert len(scored.data) <= (60_000 - 1000) * 0.75
        expect(page.locator("#notes")).to_have_text(
            "0.3 MB are more than the service takes (0.0 MB): "
            f"scored from a copy of {scored.width} \N{MULTIPLICATION SIGN} {scored.height} pixels."
        )
        assert on_screen(page, masks=False).shape == (scored.height, scored.width, 3)
        dark = of_colour(on_screen(page, masks=False), BLACK)
        assert (tinted(page) == dark).mean() > 0.999  # JPEG rings at edges
