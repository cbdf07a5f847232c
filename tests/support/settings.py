"""chatbe's settings for the servers of tests, with a password hash as cheap as it can be.

What is tested is not how long it takes; at its real cost it would be most of what the tests wait for.
"""

from chatbe.settings import *  # noqa: F403 - they are to be the same

PASSWORD_HASHERS = ["tests.support.hashers.CheapHasher"]
