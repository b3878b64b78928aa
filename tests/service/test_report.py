import re
from dataclasses import replace
from pathlib import Path

from model.average_precision import AveragePrecision
from model.evaluate import ClassReport, CocoReport
from model.voc import LabelMetrics, VocReport
from service.report import report_page

FIGURES = AveragePrecision(*(n / 1000 for n in range(101, 113)))
NONE = AveragePrecision(*[-1.0] * 12)
CURVE = tuple(1 - n / 100 for n in range(101))
REPORT = CocoReport(
    mask=FIGURES,
    box=FIGURES,
    per_class={
        "cat": ClassReport(FIGURES, FIGURES, CURVE),
        "<b>dog</b>": ClassReport(NONE, NONE, (-1.0,) * 101),
    },
    voc=VocReport(0.275, 0.782, 0.299, {"cat": LabelMetrics(0.337, 0.86, -1)}, 0.5, 0.3),
    images=221,
    seconds=12.34,
)


def page(report: CocoReport = REPORT) -> str:
    return report_page(report, judged="a&b.safetensors", annotations=Path("x/val.json"))


def cells(text: str, row: str) -> list[str]:
    """Of the first table row that begins so."""
    [found] = re.findall(rf"<tr[^>]*><td>{row}</td>(.*?)</tr>", text, re.DOTALL)[:1]
    return re.findall(r"<td[^>]*>(.*?)</td>", found)


def test_every_figure_is_on_the_page() -> None:
    text = page()

    assert cells(text, "all classes") == ["mask", *(f"0.{n}" for n in range(101, 113))]
    assert cells(text, "mean") == ["0.275", "0.782", "0.299"]
    assert re.findall(r"<dd>(.*?)</dd>", text) == ["val.json", "221", "12.3"]


def test_what_was_not_measured_is_a_dash() -> None:
    text = page()

    assert cells(text, "&lt;b&gt;dog&lt;/b&gt;") == ["mask", *["-"] * 12]
    assert cells(text.split("Azure Machine Learning")[1], "cat") == ["0.337", "0.860", "-"]


def test_names_are_text_and_not_markup() -> None:
    text = page()

    assert "a&amp;b.safetensors" in text
    assert "<b>" not in text


def test_the_page_needs_nothing_beside_it() -> None:
    assert not re.search(r"""https?:|src=|href=|url\(|@import|<script""", page())


def test_a_curve_runs_from_the_first_recall_to_the_last_within_the_axes() -> None:
    [points] = re.findall(r'<polyline points="(.*?)"', page())  # the class that was measured

    corners = [tuple(map(float, point.split(","))) for point in points.split()]
    assert len(corners) == 101
    assert corners[0] == (0, 0)  # precision 1 is at the top
    assert corners[50] == (300, 180)
    assert corners[-1] == (600, 360)


def test_of_few_classes_each_has_a_colour_and_of_many_a_name_to_point_at() -> None:
    one = REPORT.per_class["cat"]
    few = page(replace(REPORT, per_class={f"class {n}": one for n in range(6)}))
    many = page(replace(REPORT, per_class={f"class {n}": one for n in range(80)}))

    assert len(set(re.findall(r'stroke="(.*?)"><title>', few))) == 6
    assert few.count('class="key"') == 6
    assert set(re.findall(r'stroke="(.*?)"><title>', many)) == {"#999"}
    assert many.count("<title>class") == 80
    assert 'class="key"' not in many
