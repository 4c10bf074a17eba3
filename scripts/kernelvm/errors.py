"""What ends the run with a message instead of a trace."""


class Problem(Exception):
    """Something that the operator has to see or do; the text is the whole message."""
