"""Images and masks: strict reading, data set layouts, label tables, augmentation, loading."""
