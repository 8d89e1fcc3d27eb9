"""Docstrings as they are written here, for griffe, which wants an empty line above each section."""

import re

import griffe

_SECTION = re.compile(
    r"(?<=\S)\n(?=(?:Args|Attributes|Returns|Yields|Raises|Source|Sources|Example|Examples):)"
)


class Sections(griffe.Extension):
    """Puts an empty line above each section of every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Called for each module, class, function and attribute, once it is read."""
        if obj.docstring is not None:
            obj.docstring.value = _SECTION.sub("\n\n", obj.docstring.value)
