"""OpenAPI for every view: the answers that any of them may give, so that none is undocumented."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema

from chatbe import problems
from chatbe.api import ProblemSerializer

_ANYWHERE = {
    "400": "The request is malformed; `errors` names the fields.",
    "405": "The path does not take this method.",
    "406": "Only JSON is offered (or HTML, to browsers).",
    "429": "Too many requests; `Retry-After` says when to try again.",
    "503": "A dependency does not answer; `Retry-After` says when to try again.",
}
_SIGNED_IN = {
    "401": "No access token, or one that is bad, expired or of an ended session.",
    "403": "Known, but not allowed; or the account is suspended.",
}
_WITH_BODY = {
    "413": "The body is over the limit of size.",
    "415": "The body is not `application/json`.",
}
_WITH_PATH = {"404": "There is no such thing, or none that you may see."}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds.", "required": True}}
_SOME_ID = "0198c0de-0000-7000-8000-000000000010"
_PLACES = {"conversation": _SOME_ID, "emoji": "👍", "seq": 1, "session_id": _SOME_ID, "username": "bob"}
"""Examples of what stands in paths."""


class ProblemSchema(AutoSchema):
    """Adds the problems that come from the framework itself; views name their own with `extend_schema`."""

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """The operation with all its answers."""
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is None:
            return None
        expected = dict(_ANYWHERE)
        if self.view.get_authenticators():
            expected |= _SIGNED_IN
        if "requestBody" in operation:
            expected |= _WITH_BODY
        if "{" in self.path:
            expected |= _WITH_PATH
        schema = self.resolve_serializer(ProblemSerializer, "response").ref
        for status, description in expected.items():
            answer = operation["responses"].setdefault(status, {})
            answer["description"] = answer.get("description") or description
            answer["content"] = {problems.CONTENT_TYPE: {"schema": schema}}
            if status in ("429", "503"):
                answer["headers"] = _RETRY_AFTER
        operation["responses"] = dict(sorted(operation["responses"].items()))
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                parameter.setdefault("example", _PLACES.get(parameter["name"], _SOME_ID))
        return operation
