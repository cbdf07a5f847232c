"""chatbe in a Django project of somebody else's."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from chatbe_client import Client, MessageReceived, Options, Tokens
from django.core.exceptions import ImproperlyConfigured

from chatbe import embedding
from tests.support.people import PASSWORD
from tests.support.processes import ROOT

pytestmark = pytest.mark.pure

PATIENCE = 60.0
EXAMPLE = ROOT / "examples/own-project"


class Project:
    """A copy of the example, served as its README says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = (
            "CHATBE_",
            "DATABASE_URL",
            "REDIS_URL",
            "SECRET_KEY",
            "DJANGO_SETTINGS_MODULE",
            "ALLOWED_HOSTS",
        )
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(own)},
            # In place of the installed package.
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
        }
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    def manage(self, *arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def serve(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if found := re.search(r"listening on (http://\S+)", line):
                self.url = found[1]
                # Whatever else it says must not fill the pipe.
                self._reader = threading.Thread(target=self._process.stdout.read, daemon=True)
                self._reader.start()
                return
        pytest.fail("".join(said))

    def stop(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.terminate()
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._process.stdout.close()
        return code


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("own") / "project"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "var", "*.sqlite3*"))
    project = Project(folder)
    (block,) = re.findall(r"^```sh\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    install, *commands, serve = (line.partition("#")[0].split() for line in block.splitlines())
    assert install == ["pip", "install", "../.."]
    for command in commands:
        assert command[:2] == ["python", "manage.py"]
        noninteractive = ["--noinput"] if command[2] == "createsuperuser" else []
        project.manage(*command[2:], *noninteractive)
    assert serve == ["python", "manage.py", "serve", "--port", "8000"]
    project.serve("serve", "--port", "0")
    yield project
    assert project.stop() == 0


def session_of_the_desk(url: str) -> dict[str, str]:
    """Register a visitor, sign the desk in to the project, and fetch its chat session."""
    with httpx.Client(base_url=url, timeout=PATIENCE) as http:
        assert http.get("/").text == "Hello, stranger.\n"
        fields = {"username": "visitor", "email": "visitor@example.org", "password": PASSWORD}
        assert http.post("/v1/auth/register", json=fields).status_code == 201
        form = {"username": "desk", "password": PASSWORD, "next": "/"}
        token = re.findall(r'csrfmiddlewaretoken" value="(\w+)"', http.get("/admin/login/").text)[0]
        http.post("/admin/login/", data={**form, "csrfmiddlewaretoken": token})
        assert http.get("/").text == "Hello, desk.\n"
        answer = http.post("/chat-session", headers={"X-CSRFToken": http.cookies["csrftoken"]})
        assert answer.status_code == 200, answer.text
        session: dict[str, str] = answer.json()
        return session


@pytest.mark.asyncio
async def test_who_signed_in_to_the_project_chats_without_a_second_password(project: Project) -> None:
    options = Options(http_timeout=PATIENCE)
    session = await asyncio.to_thread(session_of_the_desk, project.url)
    tokens = Tokens(**{name: session[name] for name in Tokens.__slots__})
    async with (
        Client(project.url, "desk", "", tokens=tokens, options=options) as desk,
        Client(project.url, "visitor", PASSWORD, options=options) as visitor,
    ):
        assert [contact.mutual for contact in await visitor.contacts()] == [True]
        await visitor.send("Where is my parcel?", to="desk")
        async with asyncio.timeout(PATIENCE):
            async for event in desk:
                if isinstance(event, MessageReceived):
                    assert (event.message.sender, event.message.body) == ("visitor", "Where is my parcel?")
                    break


def test_times_are_utc_where_the_project_says_nothing_of_them(project: Project) -> None:
    fields = {"username": "punctual", "email": "punctual@example.org", "password": PASSWORD}
    answer = httpx.post(f"{project.url}/v1/auth/register", json=fields, timeout=PATIENCE)
    told = datetime.fromisoformat(answer.json()["created_at"])
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=5)


def test_everything_of_the_project_stays_in_its_folder(project: Project) -> None:
    assert (project.folder / "db.sqlite3").exists()
    assert (project.folder / "var/lock").exists()
    project.manage("check", "--deploy", "--fail-level", "ERROR")
    assert "No changes" in project.manage("makemigrations", "--check", "--dry-run")


def test_chatbes_documents_are_served(project: Project) -> None:
    with httpx.Client(base_url=project.url, timeout=PATIENCE) as http:
        assert "/v1/auth/login" in http.get("/v1/schema").json()["paths"]
        page = http.get("/v1/docs").text
        for path in re.findall(r'(?:src|href)="([^"]+)"', page):
            assert http.get(path).status_code == 200, path
        assert http.get("/static/chatbe/chatbe.js").status_code == 200


def settings(**own: Any) -> dict[str, Any]:
    namespace = {
        "BASE_DIR": ROOT,
        "SECRET_KEY": "a secret",
        "INSTALLED_APPS": ["django.contrib.auth", "accounts.apps.AccountsConfig"],
        **own,
    }
    embedding.install(namespace)
    return namespace


def test_what_the_project_sets_it_keeps() -> None:
    installed = settings(
        CHATBE_MESSAGE_POLICY="everyone",
        AUTHENTICATION_BACKENDS=["mysite.backends.Own"],
        REST_FRAMEWORK={"PAGE_SIZE": 7},
        MIDDLEWARE=["corsheaders.middleware.CorsMiddleware", "mysite.middleware.own"],
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "own", "OPTIONS": {"timeout": 1}}
        },
    )
    assert installed["CHATBE_MESSAGE_POLICY"] == "everyone"
    assert installed["AUTHENTICATION_BACKENDS"] == ["accounts.backends.AccountBackend", "mysite.backends.Own"]
    assert installed["REST_FRAMEWORK"]["PAGE_SIZE"] == 7
    assert installed["REST_FRAMEWORK"]["EXCEPTION_HANDLER"] == "chatbe.problems.exception_handler"
    assert installed["DATABASES"]["default"]["OPTIONS"]["timeout"] == 1
    assert "synchronous=FULL" in installed["DATABASES"]["default"]["OPTIONS"]["init_command"]
    assert installed["MIDDLEWARE"][-1] == "mysite.middleware.own"
    assert installed["MIDDLEWARE"].count("corsheaders.middleware.CorsMiddleware") == 1
    assert installed["INSTALLED_APPS"].count("django.contrib.auth") == 1
    assert "accounts" not in installed["INSTALLED_APPS"]


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        ({"AUTH_USER_MODEL": "shop.Customer"}, "AUTH_USER_MODEL is accounts.User"),
        ({"TIME_ZONE": "Europe/Berlin"}, "TIME_ZONE is UTC"),
        ({"REST_FRAMEWORK": {"EXCEPTION_HANDLER": "own"}}, "EXCEPTION_HANDLER"),
        ({"DATABASES": {"default": {"ENGINE": "django.db.backends.mysql"}}}, "PostgreSQL or SQLite"),
    ],
)
def test_what_cannot_go_together_is_told_in_words(own: dict[str, Any], problem: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=problem):
        settings(**own)


def test_a_settings_module_without_a_base_is_told_so() -> None:
    with pytest.raises(ImproperlyConfigured, match="BASE_DIR"):
        embedding.install({})
