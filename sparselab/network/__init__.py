"""The axes of a whole network: what moves together, how it is moved, the proof that it may."""
