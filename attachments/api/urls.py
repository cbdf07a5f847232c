"""Paths below `/v1/`."""

from django.urls import path

from attachments.api import views
from messaging.api import urls as messaging

# The converter of ids is registered there.
__all__ = ["messaging", "urlpatterns"]

urlpatterns = [
    path("attachments", views.AttachmentsView.as_view(), name="attachments"),
    path("attachments/<id:attachment>", views.AttachmentView.as_view(), name="attachment"),
    path("attachments/<id:attachment>/content", views.ContentView.as_view(), name="attachment-content"),
    path("attachments/<id:attachment>/thumbnail", views.ThumbnailView.as_view(), name="attachment-thumbnail"),
]
