"""Integrations, one folder each. Nothing imports them by name: the loader goes by `manifest.json`."""
