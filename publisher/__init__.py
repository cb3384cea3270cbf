"""Snapshots: one version of dense weights, table, id map and positions, and the server that loads it."""
