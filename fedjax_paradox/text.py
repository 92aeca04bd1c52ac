"""Text that somebody else wrote, for a terminal."""

import unicodedata


def printable(text: str) -> str:
    """The text with control and format characters as escapes, so that a terminal shows it and does nothing."""
    return "".join(_escaped(letter) if unicodedata.category(letter)[0] == "C" else letter for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
