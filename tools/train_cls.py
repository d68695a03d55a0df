"""Train classifiers with attention blocks; the same as `sceneparse classify`."""

import sys

from sceneparse.cli.main import main

if __name__ == "__main__":
    main(["classify", *sys.argv[1:]])
