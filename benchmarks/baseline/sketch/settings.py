"""What Channels needs of Django's settings, and no more."""

SECRET_KEY = "sketch"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS: list[str] = []
ROOT_URLCONF = "benchmarks.baseline.sketch.settings"
USE_TZ = True
urlpatterns: list[object] = []
