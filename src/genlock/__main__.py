"""`python -m genlock` is `genlock`."""

from genlock.cli.main import run

run()
