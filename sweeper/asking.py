"""A sweep for a launcher of its user's own."""


class Study:
    """Not yet."""
