"""Training plans: model, loss, optimizer and steps, as readable source that travels to the nodes."""
