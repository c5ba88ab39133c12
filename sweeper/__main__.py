"""`python -m sweeper SPEC` is `python -m sweeper.run SPEC`, as the command `sweeper` is."""

import sys

from sweeper.run import main

if __name__ == "__main__":
    sys.exit(main())
