"""What is done with trained networks, and before training, on people's own images."""
