"""`python -m deploy`: the `freshet` command without an installed script."""

from deploy.cli import app

app()
