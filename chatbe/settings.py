"""Settings, read from the environment (and `.env`); `.env.example` explains each.

Without any, chatbe runs embedded: one process, SQLite and memory, data under `var/`.
With DATABASE_URL and REDIS_URL it runs as any number of processes behind a proxy.
"""

import os
import secrets
import sys
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import django_stubs_ext
import environ  # type: ignore[import-untyped] # it has none
from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict

# Lets annotations name the generic forms of Django's classes, which exist for type checkers only.
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
if os.environ.get("CHATBE_ENV_FILE", "") != "none":
    env.read_env(os.environ.get("CHATBE_ENV_FILE", BASE_DIR / ".env"))

CHATBE_VAR_DIR = Path(env.str("CHATBE_VAR_DIR", default=str(BASE_DIR / "var")))


def _kept_secret() -> str:
    """The embedded default's own secret: made once, kept under var/ for its owner only."""
    path = CHATBE_VAR_DIR / "secret_key"
    CHATBE_VAR_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        key = secrets.token_urlsafe(64)
        file.write(key)
    return key


def _postgres(url: str) -> dict[str, Any]:
    """Django's form of a libpq URL; TCP and unix sockets (`?host=/run/postgresql`) alike."""
    parts = conninfo_to_dict(url)
    options: dict[str, Any] = {
        key: value
        for key, value in parts.items()
        if key not in {"host", "port", "user", "password", "dbname"} and value is not None
    }
    long_running = {"migrate", "seed", "purge", "search_index"} & set(sys.argv[1:2])
    timeout = 0 if long_running else env.int("CHATBE_STATEMENT_TIMEOUT", default=15)
    options.setdefault(
        "options", f"-c statement_timeout={timeout * 1000} -c idle_in_transaction_session_timeout=30000"
    )
    options.setdefault("connect_timeout", 5)
    options.setdefault("tcp_user_timeout", 10000)
    options.setdefault("application_name", "chatbe")
    options["pool"] = {"min_size": 0, "max_size": env.int("CHATBE_DATABASE_POOL", default=10), "timeout": 5}
    if timeout:
        from chatbe.core.database import bounded  # noqa: PLC0415 - embedded, psycopg is not needed

        # A second more: where the server can, it says itself that it took too long.
        options["pool"]["connection_class"] = bounded(timeout + 1)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.get("dbname") or "chatbe",
        "USER": parts.get("user") or "",
        "PASSWORD": parts.get("password") or "",
        "HOST": parts.get("host") or "",
        "PORT": str(parts.get("port") or ""),
        "OPTIONS": options,
        "CONN_MAX_AGE": 0,
        # A connection that a restart of PostgreSQL has cut must not fail the request that gets it.
        "CONN_HEALTH_CHECKS": True,
    }


def _sqlite(url: str) -> dict[str, Any]:
    name = url.removeprefix("sqlite:///")
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": name if name.startswith(":") or Path(name).is_absolute() else str(BASE_DIR / name),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            # An ack promises that the message is on the disk, hence FULL.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16000;",
        },
    }


DATABASE_URL = env.str("DATABASE_URL", default="")
REDIS_URLS = [url.strip() for url in env.str("REDIS_URL", default="").split(",") if url.strip()]
EMBEDDED = not REDIS_URLS

if DATABASE_URL.startswith(("postgres://", "postgresql://")):
    DATABASES = {"default": _postgres(DATABASE_URL)}
elif DATABASE_URL.startswith("sqlite:///") or not DATABASE_URL:
    if not DATABASE_URL:
        CHATBE_VAR_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    DATABASES = {"default": _sqlite(DATABASE_URL or f"sqlite:///{CHATBE_VAR_DIR / 'chatbe.sqlite3'}")}
else:
    raise ImproperlyConfigured("DATABASE_URL is postgres://… or sqlite:///path.")

SECRET_KEY = env.str("SECRET_KEY", default="")
if not SECRET_KEY:
    if DATABASE_URL.startswith("postgres") and not env.bool("CHATBE_KEEP_SECRET", default=False):
        raise ImproperlyConfigured(
            "Set SECRET_KEY: with PostgreSQL several processes share it. "
            'Make one with: python -c "import secrets; print(secrets.token_urlsafe(64))"'
        )
    SECRET_KEY = _kept_secret()

DEBUG = env.bool("DEBUG", default=False)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "corsheaders",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "chatbe",
    "chatbe.hub",
    "accounts",
    "messaging",
    "presence",
    "attachments",
]

MIDDLEWARE = [
    "chatbe.middleware.probes",
    "django.middleware.security.SecurityMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "chatbe.middleware.chunked_bodies",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "chatbe.urls"
ASGI_APPLICATION = "chatbe.asgi.application"
APPEND_SLASH = True

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["accounts.backends.AccountBackend"]
PASSWORD_HASHERS = [
    "accounts.hashers.BoundedArgon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "/auth/login/"
LOGIN_REDIRECT_URL = "/v1/docs"

if EMBEDDED:
    CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
        "default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 100_000}}
    }
else:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "chatbe.hub.layer.PipelinedRedisChannelLayer",
            "CONFIG": {"hosts": REDIS_URLS, "prefix": env.str("CHATBE_REDIS_PREFIX", default="chatbe")},
        }
    }

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.api.authentication.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["chatbe.api.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": [
        "rest_framework.renderers.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "chatbe.api.Negotiation",
    "DEFAULT_SCHEMA_CLASS": "chatbe.schema.ProblemSchema",
    "EXCEPTION_HANDLER": "chatbe.problems.exception_handler",
    "URL_FORMAT_OVERRIDE": None,
    "DATETIME_FORMAT": "%Y-%m-%dT%H:%M:%S.%fZ",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "chatbe",
    "DESCRIPTION": "Accounts, conversations, messages and presence over HTTP. The socket is described at /v1/asyncapi.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    # Without a null validator, the page would send this server's address to one on the web.
    "SWAGGER_UI_SETTINGS": {
        "deepLinking": True,
        "displayRequestDuration": True,
        "filter": True,
        "validatorUrl": None,
    },
    "SCHEMA_PATH_PREFIX": "/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
}

# Tokens: access 15 minutes, refresh rotated within the session's life.
CHATBE_ACCESS_LIFETIME = timedelta(seconds=env.int("CHATBE_ACCESS_LIFETIME", default=15 * 60))
CHATBE_SESSION_LIFETIME = timedelta(days=env.int("CHATBE_SESSION_LIFETIME_DAYS", default=30))
CHATBE_OTP_LIFETIME = timedelta(seconds=env.int("CHATBE_OTP_LIFETIME", default=60))
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": CHATBE_ACCESS_LIFETIME,
    "REFRESH_TOKEN_LIFETIME": CHATBE_SESSION_LIFETIME,
    "SIGNING_KEY": SECRET_KEY,
    "ISSUER": "chatbe",
    "USER_ID_CLAIM": "sub",
}

# Who may write first: contacts (the sender has added the recipient), mutual, everyone.
CHATBE_MESSAGE_POLICY = env.str("CHATBE_MESSAGE_POLICY", default="contacts")
if CHATBE_MESSAGE_POLICY not in {"contacts", "mutual", "everyone"}:
    raise ImproperlyConfigured("CHATBE_MESSAGE_POLICY is contacts, mutual or everyone.")
CHATBE_RATE_LIMITS = env.bool("CHATBE_RATE_LIMITS", default=True)
CHATBE_ALLOWED_ORIGINS = env.list("CHATBE_ALLOWED_ORIGINS", default=[])
# Pages of these origins may call the API too. Tokens travel in headers, so no cookie is ever allowed.
CORS_ALLOWED_ORIGINS = CHATBE_ALLOWED_ORIGINS
CORS_URLS_REGEX = r"^/v1/"
CORS_EXPOSE_HEADERS = ["Retry-After"]
CHATBE_TRUSTED_PROXIES = env.int("CHATBE_TRUSTED_PROXIES", default=0)
CHATBE_HEARTBEAT_INTERVAL = env.float("CHATBE_HEARTBEAT_INTERVAL", default=25.0)
CHATBE_PRESENCE_LEASE = env.float("CHATBE_PRESENCE_LEASE", default=20.0)
CHATBE_PRESENCE_GRACE = env.float("CHATBE_PRESENCE_GRACE", default=3.0)
CHATBE_PRESENCE_SWEEP = env.float("CHATBE_PRESENCE_SWEEP", default=2.0)
CHATBE_REDIS_PREFIX = env.str("CHATBE_REDIS_PREFIX", default="chatbe")
CHATBE_MAX_SOCKETS = env.int("CHATBE_MAX_SOCKETS", default=20_000)
CHATBE_MAX_UNANSWERED = env.int("CHATBE_MAX_UNANSWERED", default=64)
CHATBE_FRAME_RATE = env.float("CHATBE_FRAME_RATE", default=50.0)
CHATBE_FRAME_BURST = env.float("CHATBE_FRAME_BURST", default=500.0)
CHATBE_OUTBOX_BYTES = env.int("CHATBE_OUTBOX_BYTES", default=256 * 1024)
CHATBE_SLOW_READER_TIMEOUT = env.float("CHATBE_SLOW_READER_TIMEOUT", default=30.0)
CHATBE_WRITER_QUEUE = env.int("CHATBE_WRITER_QUEUE", default=10_000)
CHATBE_WRITER_BATCH = env.int("CHATBE_WRITER_BATCH", default=200)
CHATBE_SEND_DEADLINE = env.float("CHATBE_SEND_DEADLINE", default=10.0)
CHATBE_TAIL_PERIOD = env.float("CHATBE_TAIL_PERIOD", default=2.0)
CHATBE_SEARCH_SHARE = env.float("CHATBE_SEARCH_SHARE", default=0.02)
CHATBE_DRAIN_TIMEOUT = env.float("CHATBE_DRAIN_TIMEOUT", default=15.0)
# Seconds in which a message may be edited (0: for ever), and members that a group may have.
CHATBE_EDIT_SECONDS = env.int("CHATBE_EDIT_SECONDS", default=900)
CHATBE_GROUP_MEMBERS = env.int("CHATBE_GROUP_MEMBERS", default=5000)

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STATIC_URL = "static/"
# Served from where the packages keep them: no step of collecting, no directory of its own.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
# The page at / and the client that it is built on.
STATICFILES_DIRS = [("web", BASE_DIR / "web"), ("chatbe", BASE_DIR / "clients/js/src")]

DATA_UPLOAD_MAX_MEMORY_SIZE = 256 * 1024

# Attachments: files under var/, or a bucket; only signed addresses lead to them.
CHATBE_ATTACHMENT_BYTES = env.int("CHATBE_ATTACHMENT_BYTES", default=10 * 1024 * 1024)
CHATBE_ATTACHMENT_PIXELS = env.int("CHATBE_ATTACHMENT_PIXELS", default=50_000_000)
CHATBE_ATTACHMENT_QUOTA = env.int("CHATBE_ATTACHMENT_QUOTA", default=256 * 1024 * 1024)
CHATBE_ATTACHMENT_LINK_LIFETIME = env.int("CHATBE_ATTACHMENT_LINK_LIFETIME", default=300)
CHATBE_ATTACHMENT_STORAGE = env.str("CHATBE_ATTACHMENT_STORAGE", default="files")
CHATBE_UPLOAD_PATH = "/v1/attachments"
CHATBE_UPLOAD_BYTES = CHATBE_ATTACHMENT_BYTES + 64 * 1024
if CHATBE_ATTACHMENT_STORAGE == "files":
    _ATTACHMENTS: dict[str, Any] = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {
            "location": CHATBE_VAR_DIR / "attachments",
            "file_permissions_mode": 0o600,
            "directory_permissions_mode": 0o700,
        },
    }
elif CHATBE_ATTACHMENT_STORAGE == "s3":
    if not env.str("CHATBE_S3_BUCKET", default=""):
        raise ImproperlyConfigured("CHATBE_ATTACHMENT_STORAGE=s3 needs CHATBE_S3_BUCKET.")
    if not (find_spec("storages") and find_spec("boto3")):
        raise ImproperlyConfigured(
            "CHATBE_ATTACHMENT_STORAGE=s3 needs django-storages[s3]: install that too."
        )
    _ATTACHMENTS = {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": env.str("CHATBE_S3_BUCKET"),
            "endpoint_url": env.str("CHATBE_S3_ENDPOINT", default="") or None,
            "region_name": env.str("CHATBE_S3_REGION", default="") or None,
            "location": env.str("CHATBE_S3_PREFIX", default=""),
            "default_acl": None,
            "file_overwrite": False,
            "querystring_auth": True,
            "signature_version": "s3v4",
            "addressing_style": "path" if env.str("CHATBE_S3_ENDPOINT", default="") else None,
        },
    }
else:
    raise ImproperlyConfigured("CHATBE_ATTACHMENT_STORAGE is files or s3.")
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "attachments": _ATTACHMENTS,
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = env.bool("CHATBE_HTTPS", default=False)
SECURE_HSTS_SECONDS = env.int("CHATBE_HSTS_SECONDS", default=0)
if env.bool("CHATBE_HTTPS", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

CHATBE_LOG_LEVEL = env.str("CHATBE_LOG_LEVEL", default="INFO")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {"()": "chatbe.core.logs.JsonFormatter"},
        "readable": {"()": "chatbe.core.logs.ReadableFormatter"},
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": env.str("CHATBE_LOG_FORMAT", default="readable"),
        },
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "chatbe": {"level": CHATBE_LOG_LEVEL},
        "accounts": {"level": CHATBE_LOG_LEVEL},
        "messaging": {"level": CHATBE_LOG_LEVEL},
        "presence": {"level": CHATBE_LOG_LEVEL},
        "attachments": {"level": CHATBE_LOG_LEVEL},
        "django.request": {"level": "ERROR"},
    },
}
