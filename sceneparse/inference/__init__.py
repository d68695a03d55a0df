"""Inference: networks and test protocols, from images to scores at their own size."""
