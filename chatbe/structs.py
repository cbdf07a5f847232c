"""OpenAPI for answers that are msgspec Structs: the schema is made from the type that is encoded."""

from __future__ import annotations

import inspect
from typing import Any, Final

import msgspec
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.plumbing import ResolvedComponent
from rest_framework.response import Response

_REFERENCE: Final = "#/components/schemas/{name}"


class StructExtension(OpenApiSerializerExtension):
    """Lets `extend_schema(responses=…)` name a Struct."""

    target_class = "msgspec.Struct"
    match_subclasses = True

    def get_name(self, auto_schema: Any, direction: str) -> str:  # noqa: ARG002 - the framework's signature
        """The Struct's own name."""
        name: str = self.target.__name__
        return name

    def get_identity(self, auto_schema: Any, direction: str) -> str:
        """The name again, so that what is registered by reference is the same component."""
        return self.get_name(auto_schema, direction)

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:  # noqa: ARG002 - the framework's signature
        """The Struct's schema; the Structs that it refers to become components beside it."""
        _, components = msgspec.json.schema_components([self.target], ref_template=_REFERENCE)
        own: dict[str, Any] = components.pop(self.target.__name__)
        for name, schema in components.items():
            component = ResolvedComponent(name, ResolvedComponent.SCHEMA, _plain(schema), name)
            auto_schema.registry.register_on_missing(component)
        return _plain(own)


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """With a tag as the constant that it is (the generator takes an `enum` for a choice of a model field),
    and the docstring without its indentation."""
    for member in schema.get("properties", {}).values():
        if len(member.get("enum", ())) == 1:
            (member["const"],) = member.pop("enum")
    if "description" in schema:
        schema["description"] = inspect.cleandoc(schema["description"])
    return schema


def struct_response(struct: msgspec.Struct, status: int = 200) -> Response:
    """An answer that is a Struct."""
    return Response(msgspec.to_builtins(struct), status=status)
