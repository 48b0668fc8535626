"""Choose the proxy for a producer, and explain why a connection to it fails."""

from __future__ import annotations

import os
import ssl
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import msgspec
from websockets.exceptions import (
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    ProxyError,
    WebSocketException,
)

from oncecast.client.address import broadcast_url, is_loopback
from oncecast.core.errors import ConfigError

_DETAIL_MAX_CHARS = 200


class Proxy(NamedTuple):
    """A proxy, and the environment variable that names it."""

    url: str
    variable: str

    def __str__(self) -> str:
        try:
            parts = urlsplit(self.url)
            return f"the proxy {parts.scheme}://{parts.netloc.rpartition('@')[2]} ({self.variable})"
        except ValueError:
            return f"the proxy of {self.variable}"


def websocket_proxy(producer: str) -> Proxy | None:
    """Return the proxy for the producer's broadcast: none for loopback addresses and those of `no_proxy`.

    The first of ws_proxy or wss_proxy, socks_proxy, https_proxy, http_proxy (of ws:// only) and all_proxy.
    """
    parts = urlsplit(broadcast_url(producer))
    names = ("wss", "socks", "https", "all") if parts.scheme == "wss" else ("ws", "socks", "https", "http", "all")
    return _proxy(producer, names)


def http_proxy(producer: str) -> Proxy | None:
    """Return the proxy for requests to the producer: none for loopback addresses and those of `no_proxy`."""
    scheme = urlsplit(broadcast_url(producer)).scheme
    return _proxy(producer, ("https" if scheme == "wss" else "http", "all"))


def _proxy(producer: str, names: tuple[str, ...]) -> Proxy | None:
    parts = urlsplit(broadcast_url(producer))
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    if is_loopback(producer) or urllib.request.proxy_bypass(f"{parts.hostname}:{port}"):
        return None
    proxies = urllib.request.getproxies()
    for name in names:
        if proxies.get(name):
            url = proxies[name]
            if "://" not in url:
                url = ("socks5h://" if name == "socks" else "http://") + url
            elif name == "socks" and url.startswith("http://"):
                url = "socks5h://" + url.removeprefix("http://")
            return Proxy(url, _variable(name))
    return None


def _variable(name: str) -> str:
    """Return the variable's name as it is spelled in this environment."""
    wanted = f"{name}_proxy"
    return next((variable for variable in os.environ if variable.lower() == wanted), wanted)


def http_options(producer: str, token_headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments for an httpx2 client of the producer; raises ConfigError for an invalid proxy."""
    proxy = http_proxy(producer)
    options: dict[str, Any] = {"headers": dict(token_headers), "trust_env": False, "verify": _tls()}
    if proxy is None:
        return options
    try:
        httpx2.HTTPTransport(proxy=proxy.url).close()
    except ImportError:
        raise ConfigError(
            f"{proxy} needs a library: pip install 'httpx2[socks]', or unset {proxy.variable}"
        ) from None
    except ValueError:
        raise ConfigError(f"{proxy} is no address of a proxy: correct or unset {proxy.variable}") from None
    return {**options, "proxy": proxy.url}


def _tls() -> ssl.SSLContext | bool:
    """Return the certificate authorities of SSL_CERT_FILE or SSL_CERT_DIR, else those of the operating system."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not (file or folder):
        return True
    try:
        return ssl.create_default_context(cafile=file or None, capath=folder or None)
    except OSError as error:
        raise ConfigError(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error.strerror or error}") from None


def why_not_connected(error: Exception, producer: str, proxy: Proxy | None, token_setting: str) -> str:
    """Return why a WebSocket to `producer` fails, and what to do. `token_setting` names the setting of its token."""
    through = f" through {proxy}" if proxy else ""
    match error:
        case InvalidStatus():
            return _answered(error, token_setting) + through
        case ImportError():
            variable = proxy.variable if proxy else "the proxy's variable"
            return f"{proxy} needs a library: pip install python-socks, or unset {variable}"
        case InvalidProxy():
            return f"{proxy} is no address of a proxy: correct or unset {proxy.variable if proxy else 'it'}"
        case ProxyError():
            return f"{proxy} does not lead there: {error}; correct it, or add the host to no_proxy"
        case InvalidURI():
            return f"the server redirects to what is no WebSocket address{through}; check the address"
        case InvalidMessage():
            hint = "use wss:// if it speaks TLS" if broadcast_url(producer).startswith("ws:") else "is it a producer?"
            return f"the answer is no HTTP{through}; {hint}"
        case ssl.SSLCertVerificationError():
            reason = error.verify_message or str(error)
            return f"its certificate is not trusted: {reason}{through}; SSL_CERT_FILE names further authorities"
        case ssl.SSLError():
            return f"TLS failed: {error.reason or error}{through}; use ws:// if it does not speak TLS"
        case ValueError() if proxy:
            return f"{proxy} is no address of a proxy: correct or unset {proxy.variable}"
        case ConnectionResetError() | ConnectionAbortedError() if broadcast_url(producer).startswith("wss:"):
            return f"the connection was closed during the TLS handshake{through}; use ws:// if it does not speak TLS"
        case WebSocketException():
            return f"{type(error).__name__}: {error}{through}"
        case TimeoutError():
            return f"no answer in time{through}"
        case _:
            return f"{str(error) or type(error).__name__}{through}"


def _answered(error: InvalidStatus, token_setting: str) -> str:
    """Return the answer's status and reason, and which setting helps."""
    status = error.response.status_code
    detail = _detail(error.response.body)
    remedy = {
        401: f"{token_setting} is missing or wrong",
        403: "check the address, and the producer's ALLOWED_ORIGINS",
        404: "check the address and its path: is it a producer?",
        421: "add the host name to the producer's ALLOWED_HOSTS",
    }.get(status, "is it a producer?" if status < 500 else "the producer, or a proxy in front of it, is not ready")
    return f"HTTP {status}" + (f" ({detail})" if detail else "") + f": {remedy}"


def _detail(body: bytes | bytearray | None) -> str:
    """Return the `detail` of a problem's JSON; \"\" for any other body."""
    try:
        detail = msgspec.json.decode(body or b"", type=dict[str, Any]).get("detail")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    text = detail if isinstance(detail, str) else ""
    return "".join(c if c.isprintable() else " " for c in text)[:_DETAIL_MAX_CHARS]
