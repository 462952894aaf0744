"""The board's file system as an image. The only file that imports littlefs.

An image must have exactly as many blocks as the partition: MicroPython refuses any other with EINVAL, and an ESP32 then
says "filesystem appears to be corrupted" for ever (ports/esp32/modules/inisetup.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from gateway.flash import FlashError, need

BLOCK = 4096  # bytes: a sector of the flash; what MicroPython uses on ESP32 and RP2


def build(files: Mapping[str, bytes], size: int) -> bytes:
    """The image of a file system of `size` bytes with these files (path -> content); its folders are made.

    Raises FlashError when they do not fit.
    """
    need("littlefs-python")
    import littlefs

    system = littlefs.LittleFS(block_size=BLOCK, block_count=size // BLOCK)
    try:
        for path, content in files.items():
            folder = PurePosixPath(path).parent
            if folder.name:
                system.makedirs(str(folder), exist_ok=True)
            with system.open(path, "wb") as file:
                file.write(content)
    except (littlefs.LittleFSError, OSError) as error:
        total = sum(map(len, files.values()))
        raise FlashError(
            f"The application and its settings ({total} bytes) do not fit on a file system of {size} bytes: {error}."
        ) from None
    return bytes(system.context.buffer)


def read(image: bytes) -> dict[str, bytes]:
    """What an image holds: path -> content. Raises FlashError when it is no file system."""
    need("littlefs-python")
    import littlefs

    context = littlefs.UserContext(len(image))
    context.buffer[:] = image
    try:
        system = littlefs.LittleFS(context, mount=False, block_size=BLOCK, block_count=len(image) // BLOCK)
        system.mount()  # by itself it would make a new file system where there is none
        found = {}
        for folder, _, names in system.walk("/"):
            for name in names:
                path = f"{folder.rstrip('/')}/{name}"
                with system.open(path, "rb") as file:
                    found[path.lstrip("/")] = file.read()
    except (littlefs.LittleFSError, OSError) as error:
        raise FlashError(f"This is no file system of a board: {error}.") from None
    return found


def is_ours(start: bytes) -> bool:
    """Is this the beginning of a file system that holds our application? By the names in its root folder, which
    LittleFS keeps in the first two blocks as they are (littlefs SPEC.md, "Directories").
    """
    return b"littlefs" in start and b"main.py" in start and b"settings.json" in start
