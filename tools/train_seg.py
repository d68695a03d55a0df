"""Train a segmentation model; the same as `sceneparse train`."""

import sys

from sceneparse.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
