"""Running it: the command line, the local runner, the demo, the checks of a machine."""
