"""Where the packed state of a partition lies: Flink's keyed state in the job, memory elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from features.users import User, Waiting, unpack_user, unpack_waiting


class Store(Protocol):
    """A map from a number to bytes."""

    def get(self, key: int) -> bytes | None:
        """What was put last under `key`, None if nothing or removed."""

    def put(self, changes: dict[int, bytes]) -> None:
        """Put every one of `changes`."""

    def remove(self, keys: Iterable[int]) -> None:
        """Forget `keys`; those that are not there are no error."""

    def items(self) -> Iterable[tuple[int, bytes]]:
        """Everything."""


class MemoryStore:
    """A store that is a dictionary."""

    def __init__(self) -> None:
        self.found: dict[int, bytes] = {}

    def get(self, key: int) -> bytes | None:
        """What was put last under `key`, None if nothing or removed."""
        return self.found.get(key)

    def put(self, changes: dict[int, bytes]) -> None:
        """Put every one of `changes`."""
        self.found.update(changes)

    def remove(self, keys: Iterable[int]) -> None:
        """Forget `keys`; those that are not there are no error."""
        for key in keys:
            self.found.pop(key, None)

    def items(self) -> Iterable[tuple[int, bytes]]:
        """Everything."""
        return self.found.items()


@dataclass(frozen=True)
class Stores:
    """The stores of one partition: users by id, their waiting events by id, touches by chunk."""

    users: Store = field(default_factory=MemoryStore)
    waiting: Store = field(default_factory=MemoryStore)
    touches: Store = field(default_factory=MemoryStore)


class UserTable:
    """The users of a partition: those with waiting events in memory, the others on demand.

    Users in `changed` are written back by `save`, which also holds the cache to `cached_users`. So
    memory is bounded by users waiting, users cached, and users touched between two saves.
    """

    def __init__(self, stores: Stores, cached_users: int) -> None:
        self.waiting: dict[int, Waiting] = {}
        self.changed: set[int] = set()
        self.num_users = 0
        self._stores = stores
        self._cached_users = cached_users
        self._cached: dict[int, User] = {}
        self._stored_waiting: set[int] = set()

    def find(self, user_id: int) -> User | None:
        """The user, from memory or from the store; None for one without state."""
        user = self._cached.get(user_id)
        if user is None:
            packed = self._stores.users.get(user_id)
            if packed is not None:
                user = self._cached[user_id] = unpack_user(packed)
        return user

    def get(self, user_id: int) -> User:
        """A user who is known to have state."""
        user = self.find(user_id)
        assert user is not None, f"user {user_id} waits but has no state"
        return user

    def add(self, user_id: int) -> User:
        """Begin the state of a user who has none."""
        self.num_users += 1
        user = self._cached[user_id] = User()
        return user

    def drop(self, user_id: int) -> None:
        """Forget a user."""
        self.num_users -= 1
        self._cached.pop(user_id, None)
        self.changed.discard(user_id)
        self._stores.users.remove([user_id])
        self.waiting.pop(user_id, None)
        if user_id in self._stored_waiting:
            self._stored_waiting.discard(user_id)
            self._stores.waiting.remove([user_id])

    def save(self) -> None:
        """Write what has changed and let go of the users longest unchanged."""
        cached, waiting = self._cached, self.waiting
        users: dict[int, bytes] = {}
        waits: dict[int, bytes] = {}
        for user_id in self.changed:
            user = cached.pop(user_id)
            cached[user_id] = user
            users[user_id] = user.pack()
            waits_for = waiting.get(user_id)
            if waits_for is not None:
                waits[user_id] = waits_for.pack()
        done = [i for i in self.changed if i in self._stored_waiting and i not in waits]
        self._stores.users.put(users)
        self._stores.waiting.put(waits)
        self._stores.waiting.remove(done)
        self._stored_waiting.difference_update(done)
        self._stored_waiting.update(waits)
        self.changed.clear()
        surplus = len(cached) - self._cached_users
        if surplus > 0:
            for user_id in [user_id for user_id, _ in zip(cached, range(surplus), strict=False)]:
                del cached[user_id]

    def restore(self, num_users: int) -> None:
        """Read the waiting events; users are read when they are asked for."""
        self.num_users = num_users
        found = self._stores.waiting.items()
        self.waiting = {user_id: unpack_waiting(packed) for user_id, packed in found}
        self._stored_waiting = set(self.waiting)
