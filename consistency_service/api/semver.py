"""What a version may be called: Semantic Versioning 2.0, exactly, so that everybody sorts and compares alike."""

from __future__ import annotations

from typing import Final

LENGTH_MAX: Final = 128
_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER: Final = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
SEMVER: Final = (
    rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    rf"(?:-{_IDENTIFIER}(?:\.{_IDENTIFIER})*)?"
    r"(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?$"
)
"""A regular expression that every engine reads alike. Match the whole text with it."""
