"""The project's paths, and chatbe's below /v1/."""

from desk import views
from django.contrib import admin
from django.urls import include, path

from chatbe.urls import api

urlpatterns = [
    path("", views.index),
    path("chat-session", views.chat_session),
    path("admin/", admin.site.urls),
    path("", include(api)),
]
