"""One run of a training plan over the nodes that hold the data."""
