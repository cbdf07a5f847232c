"""The documents of the interface, made from the code that runs: OpenAPI, its page, and AsyncAPI.

`manage.py docs` keeps the same documents under docs/ (see `chatbe.generated`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.permissions import AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from chatbe.wire import asyncapi as wire

ONLY_FROM_HERE = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy: nothing comes from another host, and no script stands in the page."""


@cache
def _operations() -> dict[str, Any]:
    generator = SchemaGenerator()
    document: dict[str, Any] = generator.get_schema(request=None, public=True)
    return document


def openapi(server: str = "http://127.0.0.1:8000") -> dict[str, Any]:
    """The OpenAPI 3 document of all that is below /v1, the same for everyone, on this server.

    Whoever imports it into a client finds where to send requests, and what to fill in.
    """
    document = _operations()
    first = {name: document[name] for name in ("openapi", "info")}
    return {**first, "servers": [{"url": server}], **document}


@cache
def asyncapi_document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the socket."""
    return wire.document()


class _PublicView(APIView):
    """Anyone may read what the interface is."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


class SchemaView(_PublicView):
    """OpenAPI, in JSON unless YAML is asked for (`Accept: application/yaml`)."""

    renderer_classes = (OpenApiJsonRenderer2, OpenApiYamlRenderer2, OpenApiYamlRenderer, OpenApiJsonRenderer)

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        """Answer with the document."""
        return Response(openapi(request.build_absolute_uri("/").rstrip("/")))


class SwaggerView(SpectacularSwaggerSplitView):
    """Swagger UI; all it needs comes from this server."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The page, or (`?script=`) the script that starts it."""
        response: Response = super().get(request, *args, **kwargs)  # type: ignore[no-untyped-call]
        response["Content-Security-Policy"] = ONLY_FROM_HERE
        return response


class AsyncapiView(_PublicView):
    """AsyncAPI, in JSON."""

    renderer_classes = (JSONRenderer,)

    @extend_schema(exclude=True)
    def get(self, _request: Request) -> Response:
        """Answer with the document."""
        return Response(asyncapi_document())


schema = SchemaView.as_view()
swagger = SwaggerView.as_view()
asyncapi = AsyncapiView.as_view()
