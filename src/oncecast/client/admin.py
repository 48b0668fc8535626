"""An operator's requests to a listener or a producer: one request, one JSON answer, readable errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import msgspec

from oncecast.client.address import authorization, shown
from oncecast.client.connecting import http_options
from oncecast.client.errors import ProducerRefused
from oncecast.core.errors import Unavailable

CONNECT_DEADLINE_S = 5.0
ANSWER_DEADLINE_S = 60.0


class AdminRefused(ProducerRefused):
    """The service refused a request and gave the reason; `status` is the HTTP status."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class NotReached(Unavailable):
    """No connection could be opened: the request has not been sent."""


class AdminClient:
    """A client of the first of `addresses` that can be reached. A context manager."""

    def __init__(self, addresses: Sequence[str], *, token: str | None = None) -> None:
        self._left = [address.rstrip("/") for address in addresses]
        self._token = token
        self._headers = authorization(token)
        self._client = httpx2.Client(**http_options(self._left[0], self._headers))

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def addresses(self) -> list[str]:
        """The addresses that have not failed; the first is the current one."""
        return list(self._left)

    def at(self, address: str) -> AdminClient:
        """Return a client of one of the addresses, with the same token."""
        return AdminClient([address], token=self._token)

    @property
    def address(self) -> str:
        """The current address, without a password."""
        return shown(self._left[0])

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | Sequence[str] | None] | None = None,
        body: bytes | None = None,
        deadline_s: float = ANSWER_DEADLINE_S,
        kind: Any = Any,
    ) -> Any:
        """Send a request and return the answer, decoded as `kind`.

        Raises AdminRefused with the given reason; Unavailable if there is no answer: then the outcome is unknown.
        """
        timeout = httpx2.Timeout(deadline_s, connect=CONNECT_DEADLINE_S)
        parameters = {name: value for name, value in (query or {}).items() if value is not None}
        headers = {"content-type": "application/json"} if body is not None else {}
        while True:
            try:
                answer = self._client.request(
                    method, self._left[0] + path, params=parameters, content=body, headers=headers, timeout=timeout
                )
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                if len(self._left) > 1:
                    del self._left[0]
                    self._client.close()
                    self._client = httpx2.Client(**http_options(self._left[0], self._headers))
                    continue
                raise NotReached(f"{self.address} cannot be reached: {error}") from None
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                raise Unavailable(f"{self.address} did not answer: {type(error).__name__} {error}".rstrip()) from None
            return self._read(answer, kind)

    def _read(self, answer: httpx2.Response, kind: Any) -> Any:
        try:
            content = msgspec.json.decode(answer.content, type=kind if answer.is_success else Any)
        except msgspec.MsgspecError:
            content = None
        if answer.is_success and content is not None:
            return content
        detail = content.get("detail") if isinstance(content, dict) else None
        raise AdminRefused(f"{self.address} refuses: {detail or f'HTTP {answer.status_code}'}", answer.status_code)
