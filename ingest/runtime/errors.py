"""The one error shape: what happened, the values seen, what to do, and whether a retry can help."""

from __future__ import annotations


class FreshetError(Exception):
    """An error a person can act on.

    Args:
        primary: what happened, lower case, no full stop.
        detail: the values seen, in full sentences.
        hint: what to do or type.
        retriable: whether the same call may succeed later; service loops decide by it.

    Example:
        >>> print(FreshetError("broker not reachable", detail="127.0.0.1:9092 refused.", hint="start it"))
        broker not reachable: 127.0.0.1:9092 refused. (hint: start it)
    """

    def __init__(
        self, primary: str, *, detail: str = "", hint: str = "", retriable: bool = False
    ) -> None:
        super().__init__(primary)
        self.primary = primary
        self.detail = detail
        self.hint = hint
        self.retriable = retriable

    def __str__(self) -> str:
        text = f"{self.primary}: {self.detail}" if self.detail else self.primary
        return f"{text} (hint: {self.hint})" if self.hint else text


class ConfigError(FreshetError):
    """A setting has a value that cannot work; the message names the field."""


class BrokerError(FreshetError):
    """Kafka did not do what was asked."""
