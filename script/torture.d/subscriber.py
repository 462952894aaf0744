"""A QoS 1 subscriber with a session that the broker keeps: `subscriber.py PORT FILE`.

It appends `event-id number` to FILE for each event, and acknowledges only then: whoever kills it loses nothing that
was not given again. It connects anew for ever; the line `ready` is printed when its first subscription was granted.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

EVENT = re.compile(rb'"id":\s*"([0-9A-Z]{26})".*"subject":\s*"torture (\d{7})"', re.DOTALL)
TOPIC = "mailwire/+/event"
PAUSE = 0.1  # seconds between two tries to connect


def main(port: int, path: str) -> None:
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def received(client: Client, _: Any, message: MQTTMessage) -> None:
        if found := EVENT.search(message.payload):
            os.write(notes, b"%s %s\n" % found.groups())
        client.ack(message.mid, message.qos)

    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id="torture-subscriber",
        protocol=MQTTProtocolVersion.MQTTv5,
        manual_ack=True,
        reconnect_on_failure=False,
    )
    client.on_connect = lambda *_: client.subscribe(TOPIC, 1)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.on_message = received
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = 86400
    while True:
        try:
            client.connect("127.0.0.1", port, keepalive=5, clean_start=False, properties=session)
            client.loop_forever()
        except OSError:  # the broker is away
            pass
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
