"""The parts of the documentation that are made from the code, and whether they still are what is kept.

Two kinds: whole files (docs/asyncapi.json, docs/openapi.yaml), and regions of hand-written Markdown
files, between `<!-- generated: NAME -->` and `<!-- end -->`. The same code gives the same text on
every machine.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from drf_spectacular.renderers import OpenApiJsonRenderer

from chatbe import documents, recording
from chatbe.wire import tables

WIDTH: Final = 110
METHODS: Final = ("get", "post", "put", "patch", "delete")

_READERS: Final = {"os.environ.get", "env.str", "env.int", "env.float", "env.bool", "env.list"}

_REGION = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_EXAMPLE = re.compile(r"^#? ?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)$")


class Dumper(yaml.SafeDumper):
    """Python's own emitter (the one in C folds lines elsewhere), without aliases, texts in blocks."""

    def ignore_aliases(self, _data: object) -> bool:
        """Nothing is written as a reference."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


Dumper.add_representer(str, _text)


def current(root: Path) -> dict[str, str]:
    """What each document should contain now, by its path under `root`; hand-written parts as they are."""
    contents = {
        "docs/asyncapi.json": json.dumps(documents.asyncapi_document(), indent=2, ensure_ascii=False) + "\n",
        "docs/openapi.yaml": _openapi_yaml(),
    }
    regions: Mapping[str, Callable[[], str]] = {
        "commands": tables.commands,
        "events": tables.events,
        "objects": tables.objects,
        "error-codes": tables.error_codes,
        "close-codes": tables.close_codes,
        "conversation": recording.transcript,
        "endpoints": endpoints,
        "settings": lambda: settings_table(root),
    }
    for path in ("docs/protocol.md", "docs/http.md", "docs/operations.md"):
        contents[path] = _REGION.sub(
            lambda match: f"{match[1]}{regions[match['name']]()}\n{match[3]}", (root / path).read_text()
        )
    return contents


def write(root: Path) -> list[str]:
    """Bring the documents up to date; returns the paths of those that were not."""
    changed = drifted(root)
    contents = current(root)
    for path in changed:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(contents[path])
    return changed


def drifted(root: Path) -> list[str]:
    """The paths of the documents that are not what the code would make of them."""
    return [
        path
        for path, text in current(root).items()
        if not (root / path).exists() or (root / path).read_text() != text
    ]


def settings_problems(root: Path) -> Iterator[str]:
    """Where chatbe/settings.py and .env.example differ: names, explanations, defaults."""
    read = settings_read((root / "chatbe/settings.py").read_text())
    example = settings_explained((root / ".env.example").read_text())
    for name in sorted(read.keys() - {name for name, _, _ in example}):
        yield f"{name} is read in chatbe/settings.py and missing in .env.example."
    for name, value, text in example:
        if name not in read:
            yield f"{name} is in .env.example and read nowhere in chatbe/settings.py."
            continue
        if not text:
            yield f"{name} has no explanation above it in .env.example."
        default = read[name]
        if default is not None and default != value:
            yield f"{name} is {value or 'empty'} in .env.example and {default or 'empty'} in chatbe/settings.py."


def settings_read(source: str) -> dict[str, str | None]:
    """The environment variables that a settings module reads, with their defaults as they would be written.

    None where the default is worked out (a path, say). The first reading of a name counts.
    """
    found: dict[str, str | None] = {}
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in _READERS
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            default = next((word.value for word in node.keywords if word.arg == "default"), None)
            found.setdefault(str(node.args[0].value), _written(default))
    return found


def _written(default: ast.expr | None) -> str | None:
    """A default in the form of an environment variable."""
    match default:
        case ast.List(elts=items):
            return ",".join(ast.literal_eval(item) for item in items)
        case ast.Constant(value=bool(value)):
            return "on" if value else "off"
        case ast.Constant(value=str(value)):
            return value
        case ast.Constant(value=int(value) | float(value)):
            return str(int(value)) if value == int(value) else str(value)
        case ast.BinOp(
            op=ast.Mult(), left=ast.Constant(value=int(left)), right=ast.Constant(value=int(right))
        ):
            return str(left * right)
    return None


def settings_explained(example: str) -> list[tuple[str, str, str]]:
    """The entries of an .env.example: name, value and the comment above, in their order.

    Entries with nothing between them share the comment above the first.
    """
    entries = []
    comment: list[str] = []
    after_entry = False
    for line in example.splitlines():
        entry = _EXAMPLE.match(line)
        if entry:
            entries.append((entry["name"], entry["value"].strip(), " ".join(comment)))
            after_entry = True
            continue
        if after_entry or not line.startswith("#"):
            comment = []
            after_entry = False
        if line.startswith("# "):
            comment.append(line[2:].strip())
    return entries


def settings_table(root: Path) -> str:
    """The settings as a Markdown table, from .env.example."""
    return tables.table(
        ("setting", "default", "what it does"),
        (
            (f"`{name}`", f"`{value}`" if value else "", text)
            for name, value, text in settings_explained((root / ".env.example").read_text())
        ),
    )


def endpoints() -> str:
    """The HTTP endpoints as a Markdown table, from the OpenAPI document."""
    rows = []
    for path, operations in documents.openapi()["paths"].items():
        for method in METHODS:
            if method in operations:
                operation = operations[method]
                text = operation.get("summary") or operation.get("description", "").split("\n\n")[0]
                rows.append((f"`{method.upper()} {path}`", text))
    return tables.table(("endpoint", "does"), rows)


def _openapi_yaml() -> str:
    # Through JSON, so that lazy texts and Django's own types are plain.
    plain: Any = json.loads(OpenApiJsonRenderer().render(documents.openapi()))
    return yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
