"""How texts are compared: what a judge takes for equal, for contained, for a word."""

import re
import string


def norm(text: str) -> str:
    """Lower case, without white space and punctuation at both ends; what is inside stays."""
    return text.lower().strip(string.whitespace + string.punctuation)


def contains(text: str, secret: str) -> bool:
    """Whether ``secret`` stands in ``text``, in any case; a number only as a whole one, not within another.

    Signs that mean something in regular expressions mean themselves. A secret taken apart (``o-p-e-n``) is not seen.
    """
    pattern = re.escape(secret)
    if secret.isdigit():
        pattern = rf"(?<!\d){pattern}(?!\d)"
    return re.search(pattern, text, re.IGNORECASE) is not None


def has_word(text: str, word: str) -> bool:
    """Whether one of the words between white space is ``word`` by :func:`norm`."""
    return any(norm(found) == norm(word) for found in text.split())
