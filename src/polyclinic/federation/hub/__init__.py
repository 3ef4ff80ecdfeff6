"""The hub: the message server of a real federation, and the desk that lets parties in and out."""
