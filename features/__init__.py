"""The PyFlink job that turns events into chronological action-token sequences."""
