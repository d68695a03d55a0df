"""From images of any kind to pictures and figures of what is in them."""
