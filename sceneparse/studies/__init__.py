"""Many runs side by side: over seeds, against each other, beside what they cost."""
