"""All that crosses between an experiment and a node: requests, replies, and their bytes."""
