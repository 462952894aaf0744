"""Texts for people, read from flash when they are said: the heap has no room for what is seldom said.

When the application is compiled (gateway/flash/application.py) its sentences move into `texts.txt`, a line each, and
`text_at(place)` takes their places.
"""

# Outside of the function, or they would be in the file themselves.
_NO_MEMORY = "not enough memory"
_NO_TEXT = "a text is missing: texts.txt can't be read"


def text_at(place: int) -> str:
    """The line that begins at this octet of the file. Never fails: who asks has other trouble."""
    try:
        with open(__file__.rsplit("/", 1)[0] + "/texts.txt", "rb") as file:
            file.seek(place)
            return file.readline()[:-1].decode()
    except MemoryError:
        return _NO_MEMORY
    except OSError:
        return _NO_TEXT
