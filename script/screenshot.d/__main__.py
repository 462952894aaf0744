"""Three devices send a mail each to a gateway, a desktop shows what comes of them, and a picture is taken of that."""

from __future__ import annotations

import argparse
import shlex
import smtplib
import subprocess
import tempfile
import time
from email.message import EmailMessage
from pathlib import Path

from tests.desktop import Desktop
from tests.live import Gateway, until
from tests.mosquitto import Mosquitto

HERE = Path(__file__).parent
DAEMON = "/usr/lib/{}-linux-gnu/xfce4/notifyd/xfce4-notifyd"
HOUSE = """
integrations:
  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  broker: {{type: mqtt, url: "{url}"}}
devices:
  front_door: {{match: {{from: "cam@lan"}}, name: Front door}}
  rack_ups: {{match: {{from: "ups@lan"}}, name: Rack UPS}}
  nas: {{match: {{from: "nas@lan"}}, name: NAS}}
"""
DESK = """
integrations:
  home: {{type: mqtt, url: "{url}", publish: false, listen: [{{topic: mailwire/+/event, events: true}}]}}
  desktop: {{type: desktop}}
routes: [{{to: [desktop]}}]
"""
# What a camera might see at night, from nothing but ImageMagick.
SCENE = """
-size 640x360 gradient:#2b3a4f-#0c1018 -fill #1a222c -draw 'rectangle 0,230,640,360' -fill #46382c
-draw 'rectangle 70,70,210,300' -fill #5b4a3a -draw 'rectangle 82,84,198,296' -fill #d8b25a
-draw 'circle 186,190,191,190' -fill #8895a5
-draw 'ellipse 430,120,26,32,0,360' -draw 'roundrectangle 396,152,466,262,24,24'
-draw 'roundrectangle 402,250,426,330,8,8' -draw 'roundrectangle 436,250,460,330,8,8' -blur 0x1.2
"""


def main() -> None:
    parser = argparse.ArgumentParser("script/screenshot", description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, default=HERE / "desktop.png")
    picture = parser.parse_args().picture
    with tempfile.TemporaryDirectory() as folder, Desktop(Path(folder) / "desktop", services=True) as desktop:
        here = Path(folder)
        machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
        daemon = subprocess.Popen([DAEMON.format(machine)], env=desktop.environment)
        subprocess.run(["convert", *shlex.split(SCENE), str(here / "a.jpg")], check=True)
        broker = Mosquitto(here / "broker").start()
        house = Gateway(here / "house", HOUSE.format(url=broker.url))
        desk = Gateway(here / "desk", DESK.format(url=broker.url))
        desk.environment = lambda: desktop.environment  # type: ignore[method-assign]
        try:
            with house, desk:
                send(house, "nas@lan", "Backup task finished", "All 41 folders are on the second disk.")
                until(lambda: len(desktop.heard()) == 1, "the first notification")
                send(house, "ups@lan", "UPS on battery: utility power failed", "Runtime left: 14 minutes.")
                until(lambda: len(desktop.heard()) == 2, "the second notification")
                send(house, "cam@lan", "Motion detected", "Channel A1, person", (here / "a.jpg").read_bytes())
                until(lambda: len(desktop.heard()) == 3, "the third notification")
                time.sleep(1.5)  # it fades in
                take(desktop, picture)
        finally:
            broker.stop()
            daemon.terminate()
            daemon.wait()
    print(f"{picture}: {picture.stat().st_size} bytes")


def send(house: Gateway, sender: str, subject: str, text: str, picture: bytes = b"") -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = subject, sender, "alerts@home"
    mail.set_content(text)
    if picture:
        mail.add_attachment(picture, "image", "jpeg", filename="a.jpg")
    with smtplib.SMTP("127.0.0.1", house.port) as client:
        client.send_message(mail)


def take(desktop: Desktop, picture: Path) -> None:
    whole = desktop.folder / "whole.png"
    subprocess.run(["import", "-window", "root", str(whole)], env=desktop.environment, check=True)
    command = ["convert", str(whole), "-trim", "+repage", "-bordercolor", "black", "-border", "8", "-colors", "128"]
    command += ["-fill", "#3b5a78", "-draw", "color 0,0 floodfill"]
    subprocess.run([*command, "-strip", str(picture)], check=True)


if __name__ == "__main__":
    main()
