"""Results for people: colour maps, overlays, plots, tables and pages."""
