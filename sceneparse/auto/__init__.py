"""From a folder of images and masks to the best network that a time limit allows."""
