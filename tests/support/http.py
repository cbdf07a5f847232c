"""Clients of the HTTP API that hold each answer against the OpenAPI document."""

from __future__ import annotations

import functools
import re
from typing import Any

from drf_spectacular.generators import SchemaGenerator
from rest_framework.test import APIClient

from accounts import services
from accounts.models import User


@functools.cache
def documented() -> dict[str, Any]:
    """The OpenAPI document."""
    schema: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return schema


class DocumentedClient(APIClient):
    """Fails when an answer's status or content type is not in the OpenAPI document."""

    def request(self, **kwargs: Any) -> Any:
        response = super().request(**kwargs)
        match = response.wsgi_request.resolver_match
        if match is not None and match.route.startswith("v1/"):
            template = "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", match.route)
            operation = documented()["paths"][template].get(kwargs["REQUEST_METHOD"].lower())
            if operation is not None:
                answer = operation["responses"].get(str(response.status_code))
                assert answer is not None, (template, response.status_code, response.content)
                if response.content:
                    assert response["Content-Type"].partition(";")[0] in answer["content"]
        return response


class Device:
    """A signed-in client."""

    def __init__(self, user: User, **session: Any) -> None:
        self.user = user
        self.session, self.tokens = services.session_open(user=user, **session)
        self.http = DocumentedClient()
        self.http.credentials(HTTP_AUTHORIZATION=f"Bearer {self.tokens.access_token}")

    def get(self, url: str, **query: Any) -> Any:
        return self.http.get(url, query or None)

    def post(self, url: str, **body: Any) -> Any:
        return self.http.post(url, body, format="json")

    def put(self, url: str, **body: Any) -> Any:
        return self.http.put(url, body, format="json")

    def patch(self, url: str, **body: Any) -> Any:
        return self.http.patch(url, body, format="json")

    def delete(self, url: str, **body: Any) -> Any:
        return self.http.delete(url, body or None, format="json")
