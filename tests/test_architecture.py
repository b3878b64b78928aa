import html
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.dot").read_text(encoding="utf-8")
PICTURE = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_module_in_the_picture_exists() -> None:
    modules = re.findall(r"\b(?:service|model)/[\w/]+\.py", TEXT)

    assert modules
    assert all((ROOT / module).exists() for module in modules)


def test_the_picture_is_drawn_from_the_text_as_it_is_now() -> None:
    labels = re.findall(r'label="([^"]*)"', TEXT)
    lines = {line.strip() for label in labels for line in label.split("\\n")}

    drawn = re.findall(r"<text [^>]*>([^<]*)</text>", PICTURE)
    assert lines == {html.unescape(line).strip() for line in drawn}


def test_every_file_that_contributors_are_sent_to_exists() -> None:
    named = set(re.findall(r"`((?:service|model|tests|docker|docs)/[\w/.]+\.\w+)`", CONTRIBUTING))

    assert named
    assert all((ROOT / path).exists() for path in named)
