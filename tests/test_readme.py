import re
from pathlib import Path

from deployments import variable

from service.settings import Settings

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
MAKEFILE = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")


def documented_settings() -> dict[str, str]:
    """Variable -> default, from the rows of the settings table."""
    return dict(re.findall(r"^\| `([A-Z0-9_]+)` \| ([^|]*?) \|", README, re.MULTILINE))


def written(default: object) -> str:
    """A default as the table writes it."""
    if default in (None, "", ()):
        return ""
    if isinstance(default, tuple):
        default = ",".join(default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_setting_is_in_the_table_with_its_default() -> None:
    expected = {variable(n): written(f.default) for n, f in Settings.model_fields.items()}

    assert documented_settings() == expected


def test_every_make_target_it_names_exists() -> None:
    named = set(re.findall(r"make ([a-z-]+)", README))

    assert named
    assert named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)

    assert links
    assert all((Path(__file__).parents[1] / link).exists() for link in links)
