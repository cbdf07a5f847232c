from __future__ import annotations

import pytest
from django.contrib.auth.hashers import check_password, make_password

from accounts import hashers
from chatbe.core.errors import Unavailable

pytestmark = pytest.mark.pure


def test_passwords_are_hashed_with_argon2() -> None:
    encoded = make_password("a quiet river")
    assert encoded.startswith("argon2$argon2id$")
    assert check_password("a quiet river", encoded)
    assert not check_password("another", encoded)


def test_whoever_gets_no_turn_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = make_password("a quiet river")
    monkeypatch.setattr(hashers, "PATIENCE", 0.0)
    for _ in range(hashers.AT_ONCE):
        assert hashers._turns.acquire(timeout=0)
    try:
        with pytest.raises(Unavailable) as refused:
            check_password("a quiet river", encoded)
    finally:
        for _ in range(hashers.AT_ONCE):
            hashers._turns.release()
    assert refused.value.retry_after == 5.0
    assert check_password("a quiet river", encoded)
