"""Names that tell no device from another: what a factory set, or what every program says. MicroPython-safe."""

GENERIC = (
    " localhost localdomain local lan home device ipc ipcamera ip_camera camera cam dvr nvr nas printer scanner ups "
    "root admin administrator user mail email smtp noreply no_reply donotreply alert alerts alarm alarms info test "
    "sender from postmaster mailer_daemon notification notifications system server host gateway x "
)
"""Slugs with a blank on either side: one constant, for a board's small memory."""


def is_generic(slug: str) -> bool:
    """Whether a name, as a slug, says nothing; an empty one does not either."""
    return not slug or f" {slug} " in GENERIC
