"""Events over HTTP: `POST /events`, answered only when Kafka has confirmed them."""
