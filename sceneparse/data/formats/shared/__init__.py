"""What the formats share: sources of images and masks, and their writing as folders."""
