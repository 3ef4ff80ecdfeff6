"""A federation over NATS JetStream: what hospitals and researchers do with the hub's messages."""
