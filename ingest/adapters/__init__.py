"""Event logs of many shapes, each read as rows in event-time order."""
