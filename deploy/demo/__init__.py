"""`make demo`: the whole loop on real events, watched live, with a summary at the end."""
