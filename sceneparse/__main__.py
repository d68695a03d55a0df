"""`python -m sceneparse` is the command `sceneparse`; torchrun starts it by this."""

from sceneparse.cli.main import main

if __name__ == "__main__":
    main()
