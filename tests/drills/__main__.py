"""`python -m tests.drills DRILL [--json]`, with DRILL one of those below: exit status 0 where everything held."""

from __future__ import annotations

import argparse
import json
import sys

from tests.drills import (
    bitwise,
    compose,
    disk,
    forks,
    fuzz,
    hostile,
    inputs,
    job,
    kill,
    listeners,
    outage,
    postgres,
    soak,
)

DRILLS = {
    "kill": kill,
    "forks": forks,
    "bitwise": bitwise,
    "fuzz": fuzz,
    "hostile": hostile,
    "compose": compose,
    "disk": disk,
    "outage": outage,
    "listeners": listeners,
    "postgres": postgres,
    "soak": soak,
    "inputs": inputs,
    "job": job,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description=__doc__)
    kinds = parser.add_subparsers(dest="drill", required=True)
    for name, module in DRILLS.items():
        one = kinds.add_parser(name, description=module.__doc__)
        one.add_argument("--json", action="store_true", help="one line")
        module.add_arguments(one)
    options = parser.parse_args()
    figures = DRILLS[options.drill].run(options)
    print(json.dumps(figures, indent=None if options.json else 1))
    return 0 if figures["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
