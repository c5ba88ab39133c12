"""`python -m trainables.entry RUN_DIR --out DIR`: what the BabyLM challenge asks of a submission."""

from trainables.entry.command import main

raise SystemExit(main())
