"""Paths below `/v1/`."""

from django.urls import path

from accounts.api import views

urlpatterns = [
    path("auth/register", views.RegisterView.as_view(), name="register"),
    path("auth/login", views.LoginView.as_view(), name="login"),
    path("auth/token", views.TokenView.as_view(), name="token"),
    path("auth/otp", views.OtpView.as_view(), name="otp"),
    path("auth/logout", views.LogoutView.as_view(), name="logout"),
    path("auth/sessions", views.SessionsView.as_view(), name="sessions"),
    path("auth/sessions/<uuid:session_id>", views.SessionView.as_view(), name="session"),
    path("auth/password", views.PasswordView.as_view(), name="password"),
    path("me", views.MeView.as_view(), name="me"),
    path("me/export", views.ExportView.as_view(), name="export"),
    path("users", views.UsersView.as_view(), name="users"),
    path("contacts", views.ContactsView.as_view(), name="contacts"),
    path("contacts/<str:username>", views.ContactView.as_view(), name="contact"),
    path("contact-requests", views.ContactRequestsView.as_view(), name="contact-requests"),
    path("blocks", views.BlocksView.as_view(), name="blocks"),
    path("blocks/<str:username>", views.BlockView.as_view(), name="block"),
]
