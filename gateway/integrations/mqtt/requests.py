"""Answers `bridge/request/<verb>` on `bridge/response/<verb>`.

Every request is answered, a broken one too; `transaction`, whatever it is, is echoed so that the one who asked knows
which answer is whose. A retained request is not carried out: it would be, again, at each connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from gateway.api import Gateway, RequestRefused
from gateway.integrations.mqtt.client import Connection, Lost, Refusal
from gateway.wire.topics import Topics

AT_ONCE = 16  # requests being carried out
LATE = "ack"  # the one that is carried out also if we were away when it was made, and however many there are


class Requests:
    """Carries out requests, each in a task of its own. One that comes before there is a connection has no answer."""

    def __init__(self, gateway: Gateway, topics: Topics, log: logging.Logger) -> None:
        self._gateway = gateway
        self._topics = topics
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    def received(self, connection: Connection | None, verb: str, payload: bytes, retained: bool) -> None:
        if retained:
            self._log.warning("the retained message on bridge/request/%s is ignored: don't retain requests", verb)
            return
        busy = verb != LATE and len(self._tasks) >= AT_ONCE
        task = asyncio.create_task(self._answer(connection, verb, payload, busy))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, connection: Connection | None, verb: str, payload: bytes, busy: bool) -> None:
        answer: dict[str, Any]
        request: Mapping[str, Any] = {}
        try:
            request = _parse(payload)
            if busy:
                raise RequestRefused(f"{AT_ONCE} requests are being carried out; try again later")
            answer = {"status": "ok", "data": await self._gateway.request(verb, request)}
        except RequestRefused as error:
            answer = {"status": "error", "error": str(error)}
        except Exception as error:  # noqa: BLE001  # a fault in one request must not go unanswered
            self._log.exception("the request %s failed", verb)
            answer = {"status": "error", "error": f"the gateway failed on this ({type(error).__name__}); see its log"}
        if connection is None:
            return
        if "transaction" in request:
            answer["transaction"] = request["transaction"]
        try:
            await connection.publish(self._topics.response(verb), json.dumps(answer).encode())
        except (Lost, Refusal) as error:
            self._log.info("the answer to the request %s could not be sent: %s", verb, error)


def _parse(payload: bytes) -> Mapping[str, Any]:
    """The request's JSON object; nothing at all is an empty one. Raises RequestRefused."""
    if not payload.strip():
        return {}
    try:
        request = json.loads(payload)
        json.dumps(request, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestRefused("the request has half a character (a surrogate without its other half)") from error
    except ValueError as error:  # also what is not UTF-8
        raise RequestRefused(f"the request is not JSON: {error}") from error
    except RecursionError as error:
        raise RequestRefused("the request is nested too deeply") from error
    if not isinstance(request, dict):
        raise RequestRefused('the request is not a JSON object such as {"transaction": "1"}')
    return request
