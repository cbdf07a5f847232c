"""The HTTP half: signing in, tokens, one-time passwords, and any other call with a good token."""

from __future__ import annotations

import asyncio
import base64
import json as jsonlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from chatbe_client.errors import Refused, SignedOut, Unreachable

OTP_SECONDS = 50.0
"""A one-time password lives for 60; some of them pass on the way."""
_SPARE_SECONDS = 10.0
"""An access token with less life left than this is not used any more."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A session that was begun before, as `login` and `token` answer it; what an application keeps between runs."""

    access_token: str
    access_token_expires_at: str
    refresh_token: str


@dataclass(frozen=True, slots=True)
class Content:
    """A body that is no JSON: `pieces` begins it anew for each try."""

    pieces: Callable[[], AsyncIterator[bytes]]
    headers: dict[str, str]


class Api:
    """HTTP calls of one account, on whichever of `urls` answers."""

    def __init__(
        self,
        urls: Sequence[str],
        username: str,
        password: str,
        *,
        device: str,
        timeout: float,
        tokens: Tokens | None = None,
        on_tokens: Callable[[Tokens], None] | None = None,
    ) -> None:
        """`on_tokens` is told of every renewal, before the new tokens are used."""
        self.urls = [url.rstrip("/") for url in urls]
        self._username = username
        self._password = password
        self._device = device
        self._http = httpx.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False)
        self._at = 0
        self._access = ""
        self._access_expires_at = ""
        self._access_until = 0.0
        self._refresh = ""
        self._otp = ""
        self._otp_until = 0.0
        # A refresh token used twice ends its session, so there is never more than one use under way.
        self._signing = asyncio.Lock()
        self._on_tokens = on_tokens
        if tokens is not None:
            self.use_tokens(tokens)

    @property
    def url(self) -> str:
        """The server that is tried next."""
        return self.urls[self._at]

    def next_url(self) -> None:
        """Try another server from now on."""
        self._at = (self._at + 1) % len(self.urls)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ticket(self) -> str:
        """A one-time password for the next socket. Raises `SignedOut`, `Refused`, `Unreachable`."""
        otp, self._otp = self._otp, ""
        if otp and time.monotonic() < self._otp_until:
            return otp
        if not self._refresh:
            await self.sign_in()
            otp, self._otp = self._otp, ""
            return otp
        answer = await self.call("POST", "/v1/auth/otp")
        self._otp_until = time.monotonic() + OTP_SECONDS
        return str(answer["otp"])

    def give_back(self, otp: str) -> None:
        """A ticket that no server has seen: the next socket may use it, if it is still good then."""
        self._otp = otp

    def keep_ticket(self, otp: str) -> None:
        """Use this one-time password for the next socket, if that comes soon enough."""
        self._otp = otp
        self._otp_until = time.monotonic() + OTP_SECONDS

    async def sign_in(self) -> dict[str, Any]:
        """Begin a session with the password. Raises `SignedOut` when it is refused."""
        async with self._signing:
            return await self._sign_in()

    async def _sign_in(self) -> dict[str, Any]:
        fields = {"username": self._username, "password": self._password, "device": self._device}
        try:
            answer: dict[str, Any] = await self._request("POST", "/v1/auth/login", json=fields)
        except Refused as error:
            if error.status in (400, 401, 403):
                raise SignedOut(error.detail) from error
            raise
        self._keep_tokens(_tokens(answer))
        self.keep_ticket(answer["otp"])
        return answer

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: dict[str, Any] | None = None,
        content: Content | None = None,
        url: str | None = None,
    ) -> Any:
        """One call with a good access token; returns the answer's JSON, None when it has no body.

        `url` names the server in place of the one in use. Raises `Refused`, `Unreachable` (whether
        the call was carried out is unknown) or `SignedOut`.
        """
        for attempt in (1, 2):
            token = await self._token()
            headers = {"Authorization": f"Bearer {token}"}
            try:
                return await self._request(
                    method, path, json=json, params=params, content=content, headers=headers, url=url
                )
            except Refused as error:
                if error.status != 401 or attempt == 2:
                    raise
                if token == self._access:
                    self._access_until = 0.0
        raise AssertionError("unreachable")

    async def _token(self) -> str:
        async with self._signing:
            if time.monotonic() < self._access_until:
                return self._access
            if self._refresh:
                refresh, self._refresh = self._refresh, ""
                try:
                    answer = await self._request("POST", "/v1/auth/token", json={"refresh_token": refresh})
                    self._keep_tokens(_tokens(answer))
                except Refused as error:
                    if error.status != 401:
                        self._refresh = refresh
                        raise
                except Unreachable as error:
                    # It may have been spent, and a second use would look like theft: sign in anew next time.
                    if not self._password or not error.maybe_done:
                        self._refresh = refresh
                    raise
                else:
                    return self._access
            if not self._password:
                raise SignedOut("The session has ended.")
            await self._sign_in()
            return self._access

    @property
    def tokens(self) -> Tokens | None:
        """The session's present tokens, to be kept for the next run; None before there is one."""
        if not self._refresh:
            return None
        return Tokens(self._access, self._access_expires_at, self._refresh)

    def _keep_tokens(self, tokens: Tokens) -> None:
        self.use_tokens(tokens)
        if self._on_tokens is not None:
            self._on_tokens(tokens)

    def use_tokens(self, tokens: Tokens) -> None:
        """Go on with a session that was begun before."""
        self._access = tokens.access_token
        self._access_expires_at = tokens.access_token_expires_at
        self._refresh = tokens.refresh_token
        lifetime = _seconds_until(self._access_expires_at, self._access)
        self._access_until = time.monotonic() + lifetime

    async def _request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: dict[str, Any] | None = None,
        content: Content | None = None,
        headers: dict[str, str] | None = None,
        url: str | None = None,
    ) -> Any:
        try:
            answer = await self._http.request(
                method,
                f"{url or self.url}{path}",
                json=json,
                params=params or None,
                content=None if content is None else content.pieces(),
                headers={**(headers or {}), **(content.headers if content is not None else {})},
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unreachable(f"{method} {path}: {error!r}") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"{method} {path}: {error!r}", maybe_done=True) from error
        if answer.status_code < 300:
            return answer.json() if answer.content else None
        raise _refusal(answer)


def _tokens(answer: dict[str, Any]) -> Tokens:
    return Tokens(**{name: answer[name] for name in Tokens.__slots__})


def _refusal(answer: httpx.Response) -> Refused:
    """What a problem document says, or, where there is none, what the status says."""
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    retry_after = answer.headers.get("Retry-After", "")
    return Refused(
        str(problem.get("code") or "unavailable"),
        str(problem.get("detail") or answer.reason_phrase),
        status=answer.status_code,
        retry_after=float(retry_after) if retry_after.replace(".", "", 1).isdigit() else None,
    )


def _seconds_until(expires_at: str, token: str) -> float:
    """How long something may be used, by the server's clock alone: its token says when it was made."""
    expires = datetime.fromisoformat(expires_at).timestamp()
    return max(0.0, expires - _issued_at(token, expires) - _SPARE_SECONDS)


def _issued_at(token: str, default: float) -> float:
    """The `iat` claim of a JWT, unverified: it only measures a lifetime."""
    try:
        payload = token.split(".")[1]
        claims = jsonlib.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["iat"])
    except (IndexError, KeyError, ValueError, TypeError):
        return default - 60.0
