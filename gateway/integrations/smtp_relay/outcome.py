"""What the smarthost said of each recipient, and what follows from it: had it, never, or once more.

4yz, silence and a lost connection are "once more"; 5yz is "never", with the server's words. Each recipient has its own
end: a repeat goes to those alone who are still open. What is known of the others travels in the delivery's memo.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from gateway.api import Refused, Retry
from gateway.integrations.smtp_relay.config import Retries

_SESSION = (530, 534, 535, 538)
"""Said of the session, not of this mail: a login or TLS is missing (RFC 4954 §6, RFC 3207 §4)."""
_TOO_MANY = re.compile(r"5\.5\.3|4\.5\.3|too many recipients", re.IGNORECASE)
_TOO_BIG = re.compile(r"5\.3\.4|5\.2\.3")


class Reply(NamedTuple):
    """One SMTP reply on one line; code 0 where the words are ours, because there was none."""

    code: int
    text: str

    @property
    def good(self) -> bool:
        return 200 <= self.code < 300

    @property
    def final(self) -> bool:
        return 500 <= self.code < 600 and not self.too_many

    @property
    def about_session(self) -> bool:
        return self.code in _SESSION

    @property
    def too_many(self) -> bool:
        """No more recipients in this transaction; 552 in place of 452 by old custom (RFC 5321 §4.5.3.1.10)."""
        return self.code in (452, 552) and bool(_TOO_MANY.search(self.text))

    @property
    def too_big(self) -> bool:
        return self.final and (self.code == 552 or bool(_TOO_BIG.match(self.text)))

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip() if self.code else self.text


@dataclass
class Outcome:
    """Of one event. `had`: addresses that the smarthost took it for; `failed`: address -> why it never will."""

    had: list[str]
    failed: dict[str, str]
    since: float
    warned: bool = False
    put_off: str = ""
    """Why others must be tried again; empty: there are none."""

    @classmethod
    def of_memo(cls, memo: Mapping[str, Any]) -> Outcome:
        return cls(
            list(memo.get("had", ())),
            dict(memo.get("failed", {})),
            memo.get("since", time.time()),
            memo.get("warned", False),
        )

    def open(self, everyone: Iterable[str]) -> list[str]:
        return [one for one in everyone if one not in self.had and one not in self.failed]

    def note(self, address: str, reply: Reply) -> None:
        if reply.good:
            self.had.append(address)
        elif reply.final:
            self.failed[address] = str(reply)
        else:
            self.put_off = f"{address}: {reply}"

    def conclude(self, retries: Retries) -> None:
        """Return, if everybody has had it. Raises Retry or Refused."""
        if self.put_off:
            memo = {"had": self.had, "failed": self.failed, "since": self.since, "warned": self.warned}
            raise Retry(self.put_off, retries.after(time.time() - self.since), memo)
        if self.failed:
            words = "; ".join(f"{address}: {why}" for address, why in self.failed.items())
            raise Refused(words, {"had": self.had} if self.had else None)
