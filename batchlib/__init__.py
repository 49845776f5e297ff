"""One job description and one set of operations for batch systems that are reached by SSH."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .application import Application as Application
    from .config import Configuration as Configuration
    from .config import load as load
    from .engine import Engine as Engine
    from .errors import BatchlibError as BatchlibError
    from .quantity import Duration as Duration
    from .quantity import Memory as Memory
    from .run import Reason as Reason
    from .run import Run as Run
    from .run import State as State
    from .session import Session as Session
    from .transport.local import LocalTransport as LocalTransport
    from .transport.remote import SshTransport as SshTransport

__version__ = "0.1.0"

#: Where each public name comes from; it is imported when it is first used, so that importing batchlib costs little.
_PUBLIC = {
    "Application": "application",
    "BatchlibError": "errors",
    "Configuration": "config",
    "Duration": "quantity",
    "Engine": "engine",
    "LocalTransport": "transport.local",
    "Memory": "quantity",
    "Reason": "run",
    "Run": "run",
    "Session": "session",
    "SshTransport": "transport.remote",
    "State": "run",
    "load": "config",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
