"""What is trained: plain PyTorch, which runs without Ray."""
