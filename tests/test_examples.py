"""What README.md shows works, and what the documents link to is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from tests.support.people import PASSWORD, Person, befriend, close_all
from tests.support.processes import Deployment

PATIENCE = 30.0
ROOT: Path = settings.BASE_DIR
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for folder in (ROOT, ROOT / "docs", ROOT / "docs/adr")
    for path in folder.glob("*.md")
)


@pytest.fixture
def server(deployment: Deployment) -> str:
    """A server with alice and bob, contacts of each other."""
    address = deployment.server().url
    befriend(Person(address, "alice"), Person(address, "bob"))
    close_all()
    return address.removeprefix("http://")


def shown(language: str, server: str) -> str:
    """README's block in this language, for this server and its password."""
    found = re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(found) == 1
    code: str = found[0]
    for old, new in (("127.0.0.1:8000", server), ("chatbe-demo-1", PASSWORD)):
        assert old in code
        code = code.replace(old, new)
    return code


def said(server: str) -> list[str]:
    """What bob finds in his only conversation."""
    bob = Person(f"http://{server}", "bob", register=False)
    conversation = bob.http.get("/v1/conversations").json()["results"][0]
    bodies = [message["body"] for message in bob.history(conversation["id"])]
    close_all()
    return bodies


def run(command: list[str], code: str) -> str:
    result = subprocess.run(
        command, input=code, capture_output=True, check=False, text=True, timeout=PATIENCE
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_python_client_of_the_readme_works(server: str) -> None:
    output = run([sys.executable, "-"], shown("python", server))
    assert re.search(r"^ack .*'duplicate': False", output, re.MULTILINE)
    assert said(server) == ["Hello Bob!"]


def test_the_javascript_client_of_the_readme_works(server: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    version = int(subprocess.check_output([node, "--version"], text=True).lstrip("v").split(".")[0])
    if version < 20:
        pytest.skip("node is older than its WebSocket")
    flags = ["--experimental-websocket"] if version < 22 else []
    # The code needs `await` at its top, as a browser's console and a module have it.
    output = run([node, *flags, "--input-type=module", "-"], shown("js", server))
    assert re.search(r"^ack ", output, re.MULTILINE)
    assert said(server) == ["Hello Bob!"]


def test_two_people_chat_in_terminals(server: str) -> None:
    def terminal(username: str, peer: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-u", "examples/chat.py", username, PASSWORD, peer, server],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type_line(process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()

    def expect(process: subprocess.Popen[str], line: str) -> None:
        assert process.stdout is not None
        seen = []
        for heard in process.stdout:
            seen.append(heard)
            if heard.rstrip("\n") == line:
                return
        pytest.fail(f"not seen: {line}; seen: {seen}")

    with terminal("alice", "bob") as alice:
        expect(alice, "* 0 of 1 contacts online")
        with terminal("bob", "alice") as bob:
            expect(bob, "* 1 of 1 contacts online")
            expect(alice, "* bob is online")
            type_line(alice, "Is the kettle on?")
            expect(bob, "alice: Is the kettle on?")
            expect(alice, "  ✓ stored as number 1")
            type_line(bob, "It is.")
            expect(alice, "bob: It is.")
            type_line(bob, "")
            assert bob.wait(PATIENCE) == 0
        type_line(alice, "")
        assert alice.wait(PATIENCE) == 0


@pytest.mark.pure
@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (ROOT / document.parent / path).resolve() if path else ROOT / document
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings
            }, target


@pytest.mark.pure
def test_the_example_of_a_problem_is_json() -> None:
    (block,) = re.findall(
        r"^```json\n(.*?)^```", (ROOT / "docs/http.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert {"type", "title", "status", "code", "detail"} <= json.loads(block).keys()
