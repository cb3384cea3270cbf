"""What every process shares and no room owns: errors, logs, topics, Kafka clients, the service shell."""
