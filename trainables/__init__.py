"""What is trained: plain PyTorch, which runs without Ray."""

import sweeper as sweeper  # first of all: it looks for no modules in a run's folder
