"""`python -m gatehouse`: the command line, or one of the inner processes, which must not pay for importing it."""

import sys


def run() -> None:
    """Dispatch on the first word."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word == "_worker":
        from gatehouse.compose.worker import worker_main

        worker_main(sys.argv[2:])
    elif word == "_engine":
        from gatehouse.compose.engine import engine_main

        engine_main(sys.argv[2:])
    else:
        from gatehouse.cli import main

        main()


if __name__ == "__main__":
    run()
