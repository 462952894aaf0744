"""Mailwire on a board: the gateway's job, as far as it fits, in MicroPython 1.24 and newer.

Of the gateway it imports `gateway.wire` and nothing else. Its parts are joined in `app`; README.md tells the way of a
mail through them.
"""

VERSION = "0.1.0"  # the gateway's, held to it by a test
