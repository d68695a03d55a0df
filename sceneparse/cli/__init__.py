"""The commands of `sceneparse`: one file for each, `main` finds them."""
