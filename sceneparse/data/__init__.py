"""Images and masks: strict reading, dataset layouts, label tables, augmentation, loading."""

import os

# albumentations asks a server for its newest version on import unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
