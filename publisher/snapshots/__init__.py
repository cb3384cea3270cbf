"""The snapshot contract: what a version is made of, where it lies, how it is announced.

<root>/<model>/LATEST                          Pointer to the version to serve, replaced atomically
<root>/<model>/<version>/dense.safetensors     every dense weight, by its name in trainer.model
<root>/<model>/<version>/table.safetensors     item_weight float32[R,W], row_ids int64[R]
<root>/<model>/<version>/manifest.json.sha256  checks manifest.json; sha256sum -c reads it
<root>/<model>/<version>/manifest.json         SnapshotManifest, written last: the commit
"""

from publisher.snapshots.manifest import (
    FORMAT_VERSION,
    Announcement,
    BadSnapshot,
    SnapshotFile,
    SnapshotManifest,
    version_of,
)
from publisher.snapshots.store import DENSE, TABLE, Pointer, SnapshotStore

__all__ = [
    "DENSE",
    "FORMAT_VERSION",
    "TABLE",
    "Announcement",
    "BadSnapshot",
    "Pointer",
    "SnapshotFile",
    "SnapshotManifest",
    "SnapshotStore",
    "version_of",
]
