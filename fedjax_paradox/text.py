"""Text that somebody else wrote, for a terminal."""


def printable(text: str) -> str:
    """The text with control, format and separator characters as escapes: a terminal shows it and does nothing."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
