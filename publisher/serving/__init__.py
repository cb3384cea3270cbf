"""The server: follows users and versions, swaps versions whole, answers over HTTP."""
