"""The frames, objects and codes as Markdown: the generated parts of docs/protocol.md.

Pure and deterministic, like `chatbe.wire.asyncapi`, whose schemas these tables show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from chatbe.wire import asyncapi, codes, frames


def commands() -> str:
    """Every frame that a client may send, its fields and its answers."""
    schemas = asyncapi.schemas()
    return "\n\n".join(
        _section(asyncapi.tag_of(frame), schemas[frame.__name__], frame=True) + "\n\n" + _answers(frame)
        for frame in frames.COMMANDS
    )


def events() -> str:
    """Every frame that the server sends, and its fields."""
    schemas = asyncapi.schemas()
    return "\n\n".join(
        _section(asyncapi.tag_of(frame), schemas[frame.__name__], frame=True) for frame in frames.EVENTS
    )


def objects() -> str:
    """What frames are made of."""
    whole = {frame.__name__ for frame in asyncapi.ALL}
    return "\n\n".join(
        _section(name, schema, frame=False)
        for name, schema in asyncapi.schemas().items()
        if name not in whole
    )


def error_codes() -> str:
    """The codes of `error` frames."""
    return table(("code", "meaning"), ((f"`{code}`", codes.ERROR_MEANINGS[code]) for code in codes.ErrorCode))


def close_codes() -> str:
    """The codes with which the server closes a socket, and what the client does then."""
    return table(
        ("code", "name", "meaning", "the client"),
        (
            (str(int(code)), f"`{code.name.lower()}`", codes.CLOSE_MEANINGS[code], str(code.remedy))
            for code in codes.CloseCode
        ),
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text on one line, in which a pipe is no border."""
    return " ".join(text.split()).replace("|", "\\|")


def _section(name: str, schema: dict[str, Any], *, frame: bool) -> str:
    heading = f"### `{name}`" if frame else f"### {name}"
    fields = [
        (f"`{key}`", _type(field), _presence(key, field, schema["required"]), _notes(field))
        for key, field in schema["properties"].items()
        if not (frame and key == "type")
    ]
    parts = [heading, schema["description"]]
    if fields:
        parts.append(table(("field", "type", "given", "notes"), fields))
    return "\n\n".join(parts)


def _answers(frame: type[frames.Command]) -> str:
    answers = [f"`{asyncapi.tag_of(answer)}`" for answer in asyncapi.ANSWERS[frame]]
    return f"Answer: {', '.join(answers) if answers else 'none'}; `error` when it is refused."


def _presence(key: str, field: dict[str, Any], required: list[str]) -> str:
    if key in required:
        return "always"
    if field.get("default") not in (None, {}):
        return f"default `{field['default']}`"
    return "optional"


def _type(field: dict[str, Any]) -> str:
    """A schema in words: `string`, `uuid`, `list of …`, `map of … to …`, `… or null`."""
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    kind = str(field["type"])
    if kind == "array":
        if "prefixItems" in field:
            return f"[{', '.join(_type(item) for item in field['prefixItems'])}]"
        return f"list of {_type(field['items'])}"
    if kind == "object":
        return f"map to {_type(field['additionalProperties'])}"
    return {"uuid": "uuid", "date-time": "time"}.get(field.get("format", ""), kind)


def _notes(field: dict[str, Any]) -> str:
    """Limits and the description, of the field or of what it may be if it is not null."""
    for option in field.get("anyOf", ()):
        if option.get("type") != "null":
            return _notes(option)
    if "additionalProperties" in field and isinstance(field["additionalProperties"], dict):
        return _notes(field["additionalProperties"])
    notes = []
    if "maxLength" in field:
        notes.append(f"{field.get('minLength', 0)} to {field['maxLength']:,} characters.")
    if "minimum" in field:
        notes.append(f"{field['minimum']} or more.")
    if "description" in field:
        notes.append(field["description"])
    return " ".join(notes)
