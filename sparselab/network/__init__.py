"""The axes of a whole network: which tensor dimensions move together, how they are moved, and the proof that they may."""
