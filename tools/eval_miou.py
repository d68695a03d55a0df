"""Evaluate a segmentation model; the same as `sceneparse evaluate`."""

import sys

from sceneparse.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
