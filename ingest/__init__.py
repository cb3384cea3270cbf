"""Events enter here: contract, validation, topics, producers, dataset adapters, replay."""
