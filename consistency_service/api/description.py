"""What the description says of every call: the problems it can end in, and who may make it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from consistency_service.api.access import routes_of, rule_of
from consistency_service.api.problems import SCHEMA, documented

SCHEMES: Final[dict[str, Any]] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of the access file, or a JWT of its issuers.",
    },
    "certificate": {"type": "mutualTLS", "description": "A certificate that the node's http_client_ca signed."},
}
SECURITY: Final[list[dict[str, list[str]]]] = [{"token": []}, {"certificate": []}]


def describe(app: FastAPI) -> None:
    """Afterwards `app.openapi()` has the problem document in place of FastAPI's own, and security schemes."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            components = schema.setdefault("components", {})
            components["securitySchemes"] = SCHEMES
            schemas = components.setdefault("schemas", {})
            schemas["Problem"] = SCHEMA
            rules = {
                (route.path_format, method.lower()): rule_of(route.endpoint)
                for route in routes_of(app)
                if isinstance(route, APIRoute)
                for method in route.methods or ()
            }
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    _describe_problems(operation)
                    rule = rules[path, method]
                    if rule is None or rule.role is None:
                        operation["security"] = []
                        continue
                    operation["security"] = SECURITY
                    operation["x-ccs-role"] = [rule.role.value, *(role.value for role in rule.also)]
                    for status, said in documented("unauthenticated", "forbidden", "rate_limited").items():
                        _add(operation["responses"], str(status), said)
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _describe_problems(operation: dict[str, Any]) -> None:
    """The problem document instead of FastAPI's own validation error."""
    if "requestBody" in operation:
        for status, said in documented("malformed", "slow_request", "too_large").items():
            operation["responses"].setdefault(str(status), said)
    answer = operation.get("responses", {}).get("422", {})
    answer.get("content", {}).pop("application/json", None)
    if answer.get("content") == {}:
        operation["responses"]["422"] = documented("invalid")[422]


def _add(responses: dict[str, Any], status: str, said: dict[str, Any]) -> None:
    """A status that has problems already has these as well."""
    known = responses.setdefault(status, said)
    for media_type, content in said["content"].items():
        present = known.setdefault("content", {}).setdefault(media_type, content)
        present["examples"] = {**present.get("examples", {}), **content["examples"]}
