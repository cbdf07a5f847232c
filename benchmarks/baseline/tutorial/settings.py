"""At its best: connections that persist, the pub/sub layer, no middleware in the way."""

import os

from psycopg.conninfo import conninfo_to_dict

_database = conninfo_to_dict(os.environ["DATABASE_URL"])

SECRET_KEY = "tutorial"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "channels",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "benchmarks.baseline.tutorial.chat",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database["dbname"],
        "USER": _database["user"],
        "PASSWORD": _database["password"],
        "HOST": _database["host"],
        "PORT": _database["port"],
        "CONN_MAX_AGE": None,
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
    }
}
ASGI_APPLICATION = "benchmarks.baseline.tutorial.asgi.application"
# All tables at once, by `migrate --run-syncdb`.
MIGRATION_MODULES = {"auth": None, "contenttypes": None}
ROOT_URLCONF = "benchmarks.baseline.tutorial.settings"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
urlpatterns: list[object] = []
