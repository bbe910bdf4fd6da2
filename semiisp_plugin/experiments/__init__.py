"""The phases in order: the demo, and what it is made of."""
