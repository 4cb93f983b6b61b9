"""Words of sentences."""

from __future__ import annotations

import re


def tokenize(sentence: str) -> list[str]:
    """The words of a sentence, in lower case."""
    return re.findall(r"\w+", sentence.lower())
