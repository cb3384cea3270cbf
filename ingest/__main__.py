"""`python -m ingest`: the room's commands."""

from ingest.cli import app

if __name__ == "__main__":
    app(prog_name="python -m ingest")
