"""`python -m sweeper.report RUN_DIR`: the reports of a run, written anew from its record."""

from sweeper.report.write import main

raise SystemExit(main())
