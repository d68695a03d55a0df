"""Find labels that are probably wrong, by predictions of networks that have not seen them."""
