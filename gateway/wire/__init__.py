"""What the gateway and the firmware share: pure, without I/O and without a clock.

Everything here runs on CPython and on MicroPython alike, so it imports nothing that MicroPython lacks
(no typing, dataclasses, enum, asyncio, re, email, logging, time) and speaks in tuples, lists, bytes and str.
"""
