"""The password hash of the tests' servers."""

from __future__ import annotations

from accounts.hashers import BoundedArgon2PasswordHasher


class CheapHasher(BoundedArgon2PasswordHasher):
    """Argon2 as cheap as it can be."""

    time_cost = 1
    memory_cost = 8
    parallelism = 1
