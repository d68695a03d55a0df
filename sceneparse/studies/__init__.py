"""Many runs compared: over seeds, with each other, and with their costs."""
