from typing import Any

import pytest

from service.errors import SwaggerVersionError
from service.settings import Settings
from service.web.swagger import api_description

ALL = ["2", "2.0", "3", "3.0", "3.1"]


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


@pytest.mark.parametrize(
    ("version", "key", "release"),
    [
        ("2", "swagger", "2.0"),
        ("2.0", "swagger", "2.0"),
        ("3", "openapi", "3.0.3"),
        ("3.0", "openapi", "3.0.3"),
        ("3.1", "openapi", "3.1.0"),
    ],
)
def test_each_version_and_alias_has_its_document(version: str, key: str, release: str) -> None:
    assert api_description(version, Settings())[key] == release


@pytest.mark.parametrize("version", ["4", "", "1", "3.2", "three"])
def test_any_other_version_is_not_found_in_azures_words(version: str) -> None:
    with pytest.raises(SwaggerVersionError) as caught:
        api_description(version, Settings())

    assert caught.value.status == 404
    assert str(caught.value) == (
        f"Swagger version [{version}] is not valid. Supported versions: [2, 3, 3.1]."
    )


@pytest.mark.parametrize("version", ALL)
def test_the_input_is_azures_table_and_the_output_its_records(version: str) -> None:
    document = api_description(version, Settings())

    schemas = document.get("definitions") or document["components"]["schemas"]
    table = schemas["ServiceInput"]["properties"]["input_data"]
    assert table["required"] == ["columns", "index", "data"]
    assert table["format"] == "pandas.DataFrame:split"
    assert schemas["ServiceOutput"]["format"] == "pandas.DataFrame:records"
    assert list(schemas["ErrorResponse"]["properties"]) == ["message"]


@pytest.mark.parametrize("version", ALL)
def test_every_reference_leads_somewhere(version: str) -> None:
    document = api_description(version, Settings())

    for reference in references(document):
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


@pytest.mark.parametrize("version", ALL)
def test_the_three_operations_carry_the_names_that_clients_are_made_from(version: str) -> None:
    paths = api_description(version, Settings())["paths"]

    operations = {
        path: {method: operation["operationId"] for method, operation in methods.items()}
        for path, methods in paths.items()
    }
    assert operations == {
        "/": {"get": "ServiceHealthCheck"},
        "/score": {"post": "RunMLService"},
        "/swagger.json": {"get": "GetSwaggerSpec"},
    }


def test_title_version_and_prefix_are_settings() -> None:
    settings = Settings(service_name="photos", service_version="7", service_path_prefix="/deep/er/")

    document = api_description("3", settings)

    assert (document["info"]["title"], document["info"]["version"]) == ("photos", "7")
    assert list(document["paths"]) == ["/deep/er/", "/deep/er/score", "/deep/er/swagger.json"]
