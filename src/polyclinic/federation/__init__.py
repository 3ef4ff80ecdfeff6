"""The nodes one can reach, and how."""
