"""A local page that shows what models find in pictures."""
