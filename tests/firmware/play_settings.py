"""Run by MicroPython: what `firmware.settings` makes of each of some files, a line of JSON each."""

import json
import sys

sys.path.insert(0, sys.argv[1])

from firmware import settings

for path in sys.argv[2:]:
    found, mistakes = settings.read(path)
    sys.stdout.write(json.dumps({"path": path, "settings": found, "mistakes": mistakes}) + "\n")
