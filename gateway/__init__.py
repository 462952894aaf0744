"""Mailwire: a mail gateway for devices that can only say "e-mail"."""

__version__ = "0.1.0"
