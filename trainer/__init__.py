"""The one-pass trainer: score, log normalized entropy, learn, checkpoint, export."""
