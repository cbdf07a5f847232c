"""Two views of the project's own: a page, and a chat session for whoever is signed in to the project."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_POST

from accounts import services
from accounts.models import User


def index(request: HttpRequest) -> HttpResponse:
    """Who is signed in here."""
    name = request.user.get_username() if request.user.is_authenticated else "stranger"
    return HttpResponse(f"Hello, {name}.\n", content_type="text/plain; charset=utf-8")


@require_POST
def chat_session(request: HttpRequest) -> HttpResponse:
    """Tokens of a chat session for the user of this Django session, so that nobody signs in twice."""
    if not isinstance(request.user, User):
        return HttpResponse("Sign in first.\n", status=401, content_type="text/plain; charset=utf-8")
    _, tokens = services.session_open(user=request.user, device="mysite")
    return JsonResponse(
        {
            "username": request.user.username,
            "access_token": tokens.access_token,
            "access_token_expires_at": tokens.access_token_expires_at,
            "refresh_token": tokens.refresh_token,
        }
    )
