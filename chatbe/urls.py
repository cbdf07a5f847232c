"""Where each HTTP path leads. A project that embeds chatbe includes `api`."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from chatbe import documents, web

api: list[URLPattern | URLResolver] = [
    path("v1/schema", documents.schema, name="schema"),
    path("v1/docs", documents.swagger, name="docs"),
    path("v1/asyncapi", documents.asyncapi, name="asyncapi"),
    path("v1/", include("accounts.api.urls")),
    path("v1/", include("messaging.api.urls")),
    path("v1/", include("attachments.api.urls")),
    path("auth/", include("rest_framework.urls")),
]

urlpatterns = [
    path("", web.page, name="page"),
    *api,
    path("admin/", admin.site.urls),
]

handler400 = "chatbe.problems.bad_request"
handler403 = "chatbe.problems.forbidden"
handler404 = "chatbe.problems.not_found"
handler500 = "chatbe.problems.server_error"
