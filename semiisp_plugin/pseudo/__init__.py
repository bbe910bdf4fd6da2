"""Photographs to pseudo pairs."""
