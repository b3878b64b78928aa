import re

from deployments import DOCKER, ROOT

README = (DOCKER / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_every_file_it_names_exists() -> None:
    paths = set(re.findall(r"(?:docker|tests)/[\w./-]+\w", README))

    assert paths
    assert all((ROOT / path).exists() for path in paths)


def test_every_make_target_and_build_argument_it_names_exists() -> None:
    targets = set(re.findall(r"make ([a-z-]+)", README))
    arguments = set(re.findall(r"--build-arg ([A-Z_]+)=", README))
    arguments |= set(re.findall(r"^\| `([A-Z]+)` \|", README, re.MULTILINE))

    assert targets <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert arguments == set(re.findall(r"^ARG ([A-Z_]+)", DOCKERFILE, re.MULTILINE)) - {"VERSION"}


def test_every_overlay_is_in_its_table() -> None:
    overlays = {file.parent.name for file in (DOCKER / "kubernetes").glob("*/kustomization.yaml")}

    assert overlays == set(re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE))


def test_steps_are_numbered_without_a_gap() -> None:
    steps = [int(number) for number in re.findall(r"^## (\d+)\.", README, re.MULTILINE)]

    assert steps == [*range(1, len(steps) + 1)]
