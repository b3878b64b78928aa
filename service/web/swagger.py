"""The API description in the versions that Azure's server offers."""

from collections.abc import Callable
from typing import Any

from service.errors import SwaggerVersionError
from service.settings import Settings

Document = dict[str, Any]

_SERVICE_INPUT: Document = {
    "type": "object",
    "required": ["input_data"],
    "properties": {
        "input_data": {
            "type": "object",
            "required": ["columns", "index", "data"],
            "properties": {
                "columns": {"type": "array", "items": {"type": "string"}},
                "index": {"type": "array", "items": {"type": "integer"}},
                "data": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "One image a row: base64 of the file, or its URL.",
                },
            },
            "format": "pandas.DataFrame:split",
        },
        "params": {
            "type": "object",
            "properties": {
                "text_prompt": {"type": "string"},
                "custom_entities": {"type": "boolean", "default": True},
            },
        },
    },
    "example": {"input_data": {"columns": ["image"], "index": [], "data": []}},
}
_SIDES = ["topX", "topY", "bottomX", "bottomY"]
_FRACTION: Document = {"type": "number", "minimum": 0, "maximum": 1}
_SERVICE_OUTPUT: Document = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["boxes"],
        "properties": {
            "boxes": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["box", "label", "score", "polygon"],
                    "properties": {
                        "box": {
                            "type": "object",
                            "required": _SIDES,
                            "properties": dict.fromkeys(_SIDES, _FRACTION),
                        },
                        "label": {"type": "string"},
                        "score": _FRACTION,
                        "polygon": {
                            "type": "array",
                            "items": {"type": "array", "items": _FRACTION, "minItems": 6},
                            "description": "Rings x0, y0, x1, y1, ... whose union is the mask.",
                        },
                    },
                },
            }
        },
    },
    "format": "pandas.DataFrame:records",
}
_ERROR: Document = {
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string"}},
}
_SCHEMAS = {
    "ServiceInput": _SERVICE_INPUT,
    "ServiceOutput": _SERVICE_OUTPUT,
    "ErrorResponse": _ERROR,
}
_BEARER = {
    "Bearer": {
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "description": "For example: Bearer abc123",
    }
}
_VERSIONS = [2, 3, 3.1]


def api_description(version: str, settings: Settings) -> Document:
    """The description in ``version``: 2, 2.0, 3, 3.0 or 3.1.

    Raises:
        SwaggerVersionError: It is none of these.
    """
    match version:
        case "2" | "2.0":
            return _swagger_2(settings)
        case "3" | "3.0":
            return _openapi("3.0.3", settings)
        case "3.1":
            return _openapi("3.1.0", settings)
        case _:
            raise SwaggerVersionError(
                f"Swagger version [{version}] is not valid. Supported versions: {_VERSIONS}."
            )


def _swagger_2(settings: Settings) -> Document:
    def answer(schema: Document) -> Document:
        return {"schema": schema}

    def named(name: str) -> Document:
        return {"$ref": f"#/definitions/{name}"}

    payload = {
        "parameters": [
            {
                "name": "serviceInputPayload",
                "in": "body",
                "required": True,
                "description": "The images to score.",
                "schema": named("ServiceInput"),
            }
        ]
    }
    version = {"name": "version", "in": "query", "required": False, "type": "number"}
    return {
        "swagger": "2.0",
        "info": _info(settings),
        "schemes": ["https"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": _BEARER,
        "paths": _paths(settings, payload, version | {"enum": _VERSIONS}, answer, named),
        "definitions": _SCHEMAS,
    }


def _openapi(release: str, settings: Settings) -> Document:
    def answer(schema: Document) -> Document:
        return {"content": {"application/json": {"schema": schema}}}

    def named(name: str) -> Document:
        return {"$ref": f"#/components/schemas/{name}"}

    payload = {"requestBody": {"required": True, **answer(named("ServiceInput"))}}
    version = {"name": "version", "in": "query", "required": False}
    version["schema"] = {"type": "number", "enum": _VERSIONS}
    return {
        "openapi": release,
        "info": _info(settings),
        "security": [{"Bearer": []}],
        "paths": _paths(settings, payload, version, answer, named),
        "components": {"schemas": _SCHEMAS, "securitySchemes": _BEARER},
    }


def _info(settings: Settings) -> Document:
    return {
        "title": settings.service_name,
        "description": f"API specification of the service {settings.service_name}",
        "version": settings.service_version,
    }


def _paths(
    settings: Settings,
    payload: Document,
    version: Document,
    answer: Callable[[Document], Document],
    named: Callable[[str], Document],
) -> Document:
    """The three operations; the callables say how a version writes answers and references."""
    stripped = settings.service_path_prefix.strip("/")
    prefix = f"/{stripped}" if stripped else ""

    def operation(name: str, description: str, schema: Document, **more: Any) -> Document:
        return {
            "operationId": name,
            "description": description,
            **more,
            "responses": {
                "200": {"description": "The request succeeded.", **answer(schema)},
                "default": {
                    "description": "The request failed.",
                    **answer(named("ErrorResponse")),
                },
            },
        }

    text: Document = {"type": "string"}
    health = operation("ServiceHealthCheck", "Whether the service is up.", text)
    score = operation(
        "RunMLService",
        "Find and outline every object in each image.",
        named("ServiceOutput"),
        security=[{"Bearer": []}],
        **payload,
    )
    document = operation(
        "GetSwaggerSpec", "This description.", {"type": "object"}, parameters=[version]
    )
    return {
        f"{prefix}/": {"get": health},
        f"{prefix}/score": {"post": score},
        f"{prefix}/swagger.json": {"get": document},
    }
