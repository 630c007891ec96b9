"""`python -m simulators`: serve the specification on standard input, see `simulators.server`."""

import sys

from .server import serve

if __name__ == "__main__":
    sys.exit(serve())
