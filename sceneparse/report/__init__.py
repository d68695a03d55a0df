"""What people look at: colour maps, overlays, grids, tables."""
