"""Stock Daphne on uvloop: `python -m benchmarks.baseline.daphne_on_uvloop …`, with Daphne's arguments."""

import asyncio

import uvloop

# Daphne takes a loop of the policy's as soon as its server is imported.
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

from daphne.cli import CommandLineInterface

if __name__ == "__main__":
    CommandLineInterface.entrypoint()
