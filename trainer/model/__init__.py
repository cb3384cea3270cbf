"""The recommender: configuration, backbones, heads and losses."""
