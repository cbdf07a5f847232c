"""chatbe within a Django project of somebody else's: its apps and settings, added to theirs.

At the end of the project's settings module:

    from chatbe import embedding

    embedding.install(globals())

docs/quickstart.md shows the whole of it, and examples/own-project is one that runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

_ALWAYS: Final = ("REDIS_URLS", "EMBEDDED", "DATABASE_URL", "CHANNEL_LAYERS", "SPECTACULAR_SETTINGS")
_IF_NOT_SET: Final = (
    "ASGI_APPLICATION",
    "AUTHENTICATION_BACKENDS",
    "AUTH_USER_MODEL",
    "CORS_ALLOWED_ORIGINS",
    "CORS_EXPOSE_HEADERS",
    "CORS_URLS_REGEX",
    "PASSWORD_HASHERS",
    # Django's own default is Chicago's.
    "TIME_ZONE",
    "WHITENOISE_USE_FINDERS",
)
_REST_NEEDED: Final = (
    "DATETIME_FORMAT",
    "DEFAULT_AUTHENTICATION_CLASSES",
    "DEFAULT_PARSER_CLASSES",
    "DEFAULT_PERMISSION_CLASSES",
    "DEFAULT_SCHEMA_CLASS",
    "EXCEPTION_HANDLER",
)
"""What chatbe's views take from REST_FRAMEWORK, so that a project cannot have it otherwise."""
_MIDDLEWARE: Final = (
    ("whitenoise.middleware.WhiteNoiseMiddleware", "django.middleware.security.SecurityMiddleware"),
    ("corsheaders.middleware.CorsMiddleware", "django.middleware.security.SecurityMiddleware"),
    ("chatbe.middleware.chunked_bodies", "corsheaders.middleware.CorsMiddleware"),
)
"""What is added, each behind the other."""


def install(namespace: dict[str, Any]) -> None:
    """Add chatbe to a settings module, whose globals these are. What it sets itself, it keeps.

    chatbe's own settings come from the environment, or the file `.env` in the project's BASE_DIR,
    as .env.example has them; its data goes into BASE_DIR/var. Call it last. Raises
    `ImproperlyConfigured` for what cannot go together.
    """
    for name in ("BASE_DIR", "SECRET_KEY", "INSTALLED_APPS"):
        if name not in namespace:
            raise ImproperlyConfigured(f"{name} is set before embedding.install.")
    ours = _settings(Path(namespace["BASE_DIR"]), namespace["SECRET_KEY"])
    _check(namespace, ours)
    for name in dir(ours):
        if name.startswith("CHATBE_") or name in _IF_NOT_SET:
            namespace.setdefault(name, getattr(ours, name))
    for name in _ALWAYS:
        namespace.setdefault(name, getattr(ours, name))
    for name in ("REST_FRAMEWORK", "SIMPLE_JWT"):
        namespace[name] = {**getattr(ours, name), **namespace.get(name, {})}
    _add_databases(namespace, ours)
    _add_storages(namespace, ours)
    namespace["INSTALLED_APPS"] = _with_apps(namespace["INSTALLED_APPS"], ours.INSTALLED_APPS)
    namespace["MIDDLEWARE"] = _with_middleware(namespace.get("MIDDLEWARE", []))
    backends = namespace["AUTHENTICATION_BACKENDS"]
    namespace["AUTHENTICATION_BACKENDS"] = [
        *(name for name in ours.AUTHENTICATION_BACKENDS if name not in backends),
        *backends,
    ]
    # The JavaScript client, as static/chatbe/chatbe.js; a package that was installed may lack it.
    scripts = [
        (prefix, path) for prefix, path in ours.STATICFILES_DIRS if prefix == "chatbe" and path.is_dir()
    ]
    namespace["STATICFILES_DIRS"] = [*namespace.get("STATICFILES_DIRS", []), *scripts]


def _settings(base: Path, secret_key: str) -> ModuleType:
    """chatbe's settings, read as if its home were the project's."""
    defaults = {
        "CHATBE_ENV_FILE": str(base / ".env") if (base / ".env").exists() else "none",
        "CHATBE_VAR_DIR": str(base / "var"),
        "SECRET_KEY": secret_key,
    }
    with _environment(defaults):
        from chatbe import settings  # noqa: PLC0415 - it reads the environment when it is imported
    return settings


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Have these variables where the environment lacks them, for a while."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _check(namespace: dict[str, Any], ours: ModuleType) -> None:
    """Refuse, in words, what would fail later."""
    if namespace.get("AUTH_USER_MODEL", ours.AUTH_USER_MODEL) != ours.AUTH_USER_MODEL:
        raise ImproperlyConfigured(
            "chatbe keeps accounts in its own user model: AUTH_USER_MODEL is accounts.User. A project with another "
            "one runs chatbe beside itself, with accounts of the same usernames."
        )
    if namespace.get("TIME_ZONE", "UTC") != "UTC" or not namespace.get("USE_TZ", True):
        raise ImproperlyConfigured("chatbe tells times in UTC: TIME_ZONE is UTC, and USE_TZ is True.")
    for name in _REST_NEEDED:
        if (
            namespace.get("REST_FRAMEWORK", {}).get(name, ours.REST_FRAMEWORK[name])
            != ours.REST_FRAMEWORK[name]
        ):
            raise ImproperlyConfigured(
                f"chatbe's views depend on REST_FRAMEWORK[{name!r}]: leave it out, and set it on your own views."
            )
    engine = namespace.get("DATABASES", {}).get("default", {}).get("ENGINE", "")
    if engine and not engine.endswith((".sqlite3", ".postgresql")):
        raise ImproperlyConfigured("chatbe runs on PostgreSQL or SQLite.")


def _add_databases(namespace: dict[str, Any], ours: ModuleType) -> None:
    """DATABASE_URL, or the project's own database with what an ack's promise asks of it."""
    theirs = namespace.get("DATABASES", {}).get("default")
    if ours.DATABASE_URL or not theirs:
        namespace["DATABASES"] = {**namespace.get("DATABASES", {}), "default": ours.DATABASES["default"]}
    elif theirs["ENGINE"].endswith(".sqlite3"):
        theirs["OPTIONS"] = {**ours.DATABASES["default"]["OPTIONS"], **theirs.get("OPTIONS", {})}


def _add_storages(namespace: dict[str, Any], ours: ModuleType) -> None:
    """The places of chatbe's files, beside Django's own and the project's."""
    added = {
        name: place
        for name, place in getattr(ours, "STORAGES", {}).items()
        if name not in {"default", "staticfiles"}
    }
    if added:
        theirs = namespace.get("STORAGES") or {
            "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
            "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
        }
        namespace["STORAGES"] = {**added, **theirs}


def _with_apps(theirs: list[str], ours: list[str]) -> list[str]:
    """Their apps, and those of ours that are not among them by name or by their AppConfig's path."""
    return [
        *theirs,
        *(
            app
            for app in ours
            if not any(f"{own}.".startswith(f"{app}.apps.") or own == app for own in theirs)
        ),
    ]


def _with_middleware(theirs: list[str]) -> list[str]:
    """Their middleware, with what is missing behind its neighbour."""
    chain = list(theirs)
    for name, before in _MIDDLEWARE:
        if name not in chain:
            chain.insert(chain.index(before) + 1 if before in chain else 0, name)
    return chain
